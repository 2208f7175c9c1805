"""What the builders share: the features of a set, and finding a download's files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from ufm_jax.errors import DataError


def describe(
    builder: Any, description: str, homepage: str, *, labels: Sequence[str] = (), **texts: str
) -> Any:
    """A set's description, with the features image, name and group.

    Args:
        builder: The set's builder.
        description: A sentence on the set.
        homepage: Where the set is published.
        labels: Class names; none = no label.
        **texts: Further features of text or bytes, with their meaning.
    """
    features: dict[str, Any] = {
        # Bytes as they were downloaded: encoding pixels again would need TensorFlow.
        "image": tfds.features.Image(shape=(None, None, None), doc="Encoded, as downloaded."),
        "name": tfds.features.Text(doc="Path in the download."),
        "group": tfds.features.Text(doc="Images of one group, a patient, are never parted."),
        **{name: tfds.features.Text(doc=meaning) for name, meaning in texts.items()},
    }
    if labels:
        features["label"] = tfds.features.ClassLabel(names=list(labels))
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        homepage=homepage,
        features=tfds.features.FeaturesDict(features),
    )


def example(path: Path, name: str, **features: Any) -> tuple[str, dict[str, Any]]:
    """An image as a builder yields it: its key, and the features of ``describe``."""
    return name, {"image": path.read_bytes(), "name": name, **features}


def find(root: Path, pattern: str, layout: str) -> list[Path]:
    """Files of a download, sorted.

    Raises:
        DataError: If there is no file; says what the layout should be.
    """
    found = sorted(root.glob(pattern))
    if not found:
        raise DataError(f"no {pattern} in {root}: the download should hold {layout}")
    return found
