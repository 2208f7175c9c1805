"""TFDS builders of public ultrasound sets, over a copy that the user downloaded; no TensorFlow."""

import importlib
from pathlib import Path
from typing import Any

from ufm_jax.data.optional import needed_packages
from ufm_jax.errors import DataError

SETS = ("busi", "hc18", "pocus")


def build(name: str, source: Path, out: Path) -> Path:
    """Builds a set in ArrayRecord files.

    Args:
        name: One of ``SETS``.
        source: The unpacked download.
        out: TFDS data folder; the set goes to ``out/name/version``.

    Returns:
        The built set's folder.

    Raises:
        DataError: If the set is unknown, ``source`` is not laid out like the original or holds a
            broken mask or table, ``out`` holds the set already, or a package is not installed.
    """
    with needed_packages():
        import tensorflow_datasets as tfds

        # TFDS imports both only once it writes, and then names neither in its error.
        importlib.import_module("importlib_resources")
        importlib.import_module("array_record.python.array_record_module")

    from ufm_jax.data.sources.tfds_builders.busi import Busi
    from ufm_jax.data.sources.tfds_builders.hc18 import Hc18
    from ufm_jax.data.sources.tfds_builders.pocus import Pocus

    builders: dict[str, Any] = {"busi": Busi, "hc18": Hc18, "pocus": Pocus}
    if name not in builders:
        raise DataError(f"unknown set {name!r}: choose one of {', '.join(SETS)}")
    if not source.is_dir():
        raise DataError(f"{source} is not a folder: unpack the download of {name} there")
    builder = builders[name](data_dir=out, file_format="array_record")
    folder = Path(builder.data_dir)
    if folder.exists():
        raise DataError(f"{folder} is built already: remove it, or choose another folder")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(source))
    )
    return folder
