"""POCUS: lung ultrasound (Born et al., Applied Sciences 11(2):672, 2021), its still images.

Clips are left out: reading them needs a video decoder. Save their frames as images in the same
folders to have them in; frames of one clip share the part of the name before ``_frame``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from ufm_jax.data.sources.tfds_builders.examples import describe, example, find
from ufm_jax.errors import DataError

LABELS = ("bacterial_pneumonia", "covid", "regular", "viral_pneumonia")
_PREFIXES = {"pneu": LABELS[0], "cov": LABELS[1], "reg": LABELS[2], "vir": LABELS[3]}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".bmp")
_LAYOUT = "pocus_images/convex/ and pocus_images/linear/ with names that begin Cov, Pneu, Reg, Vir"


class Pocus(tfds.core.GeneratorBasedBuilder):
    """Lung images of convex and linear probes in four classes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Still images; clips are left out."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"A folder with {_LAYOUT}."

    def _info(self) -> Any:
        return describe(
            self,
            "Lung ultrasound: COVID-19, bacterial and viral pneumonia, healthy.",
            "https://doi.org/10.3390/app11020672",
            labels=LABELS,
            probe="convex or linear.",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(Path(dl_manager.manual_dir))}

    def _generate_examples(self, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in find(root, "pocus_images/*/*", _LAYOUT):
            if path.suffix.lower() not in _SUFFIXES:
                continue
            yield example(
                path,
                path.relative_to(root).as_posix(),
                group=re.sub(r"_frame\d+$", "", path.stem),
                label=_label(path),
                probe=path.parent.name,
            )


def _label(path: Path) -> str:
    for prefix, label in _PREFIXES.items():
        if path.name.lower().startswith(prefix):
            return label
    raise DataError(
        f"{path}: its name begins with none of {sorted(_PREFIXES)}; remove or rename it"
    )
