"""HC18: fetal heads with their circumference (van den Heuvel et al., PLoS ONE 13(8), 2018)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from ufm_jax.data.csv_files import read_csv
from ufm_jax.data.sources.tfds_builders.examples import describe, example, find

_LAYOUT = (
    "training_set/ and test_set/ with 000_HC.png, 000_HC_Annotation.png, and "
    "training_set_pixel_size_and_HC.csv"
)


class Hc18(tfds.core.GeneratorBasedBuilder):
    """1,334 images of fetal heads; the number before '_' is the patient's."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Training and test images."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"A folder with {_LAYOUT}."

    def _info(self) -> Any:
        return describe(
            self,
            "Fetal heads in the standard plane, with the circumference in millimetres.",
            "https://doi.org/10.1371/journal.pone.0200412",
            mask="Encoded annotation: the outline of the skull; empty where none was released.",
            pixel_size_mm="Side of a pixel, mm; empty where not known.",
            head_circumference_mm="Circumference, mm; empty where not released.",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        return {
            split: self._generate_examples(root, folder)
            for split, folder in (("train", "training_set"), ("test", "test_set"))
        }

    def _generate_examples(self, root: Path, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        measured = _measurements(root)
        for path in find(root, f"{folder}/*HC.png", _LAYOUT):
            annotation = path.with_name(f"{path.stem}_Annotation.png")
            row = measured.get(path.name, {}) if folder == "training_set" else {}
            size = next((value for key, value in row.items() if key.startswith("pixel")), "")
            length = next((value for key, value in row.items() if key.startswith("head")), "")
            yield example(
                path,
                f"{folder}/{path.name}",
                group=f"{folder}/{path.name.split('_')[0]}",
                mask=annotation.read_bytes() if annotation.exists() else b"",
                pixel_size_mm=size,
                head_circumference_mm=length,
            )


def _measurements(root: Path) -> dict[str, dict[str, str]]:
    """Rows of the training set's table, by file name; empty where it is absent.

    Raises:
        DataError: If the table cannot be read, or does not name its files.
    """
    table = root / "training_set_pixel_size_and_HC.csv"
    if not table.exists():
        return {}
    _, rows = read_csv(table, ["filename"])
    return {row.cells["filename"]: row.cells for row in rows}
