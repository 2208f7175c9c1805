"""BUSI: breast ultrasound images with masks (Al-Dhabyani et al., Data in Brief 28:104863, 2020)."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from ufm_jax.data.labels.masks.classes import MaskClasses
from ufm_jax.data.labels.masks.decode import MaskFault, class_mask, decode_values
from ufm_jax.data.sources.tfds_builders.examples import describe, example, find
from ufm_jax.errors import DataError

LABELS = ("benign", "malignant", "normal")
_LAYOUT = "benign/, malignant/ and normal/ with 'benign (1).png' and 'benign (1)_mask.png'"


class Busi(tfds.core.GeneratorBasedBuilder):
    """780 breast images, each normal, benign or malignant; the set names no patients."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "All images; several masks of one image are united."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"A folder with {_LAYOUT}."

    def _info(self) -> Any:
        return describe(
            self,
            "Breast ultrasound, normal, benign and malignant, with lesion masks.",
            "https://doi.org/10.1016/j.dib.2019.104863",
            labels=LABELS,
            mask="Encoded PNG, 255 = lesion; empty where there is none.",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(Path(dl_manager.manual_dir))}

    def _generate_examples(self, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for label in LABELS:
            for path in find(root, f"{label}/*.png", _LAYOUT):
                if re.search(r"_mask(_\d+)?$", path.stem):
                    continue
                masks = sorted(
                    p for p in path.parent.iterdir() if p.stem.startswith(f"{path.stem}_mask")
                )
                name, group = f"{label}/{path.name}", f"{label}/{path.stem}"
                yield example(path, name, group=group, label=label, mask=_united(masks))


def _united(paths: list[Path]) -> bytes:
    """One mask of several, as PNG; empty bytes if there is no mask.

    Raises:
        DataError: If a mask does not decode, or differs in size from the first.
    """
    if not paths:
        return b""
    masks = []
    for path in paths:
        try:
            masks.append(class_mask(decode_values(path.read_bytes()), MaskClasses()).numbers > 0)
        except (OSError, MaskFault) as error:
            raise DataError(f"{path} does not decode ({error}): download it again") from error
        if masks[-1].shape != masks[0].shape:
            raise DataError(f"{path} differs in size from {paths[0]}: download them again")
    out = io.BytesIO()
    Image.fromarray(np.where(np.any(masks, axis=0), 255, 0).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()
