"""Several mask files of one image as one mask: BUSI writes a file for each lesion."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ufm_jax.data.cache.fingerprint import digest
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.labels.masks import decode
from ufm_jax.data.labels.masks.decode import MaskFault
from ufm_jax.data.records import Picture


@dataclass(frozen=True)
class JoinedMask:
    """Handle of a mask in several files of one size: in an overlap the largest value counts."""

    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """For messages."""
        return " + ".join(map(str, self.files))

    def fingerprint(self) -> bytes:
        """Changes with the content of the files; if one cannot be read, only with their names."""
        try:
            return digest(b"joined", *(digest(content) for content in self._contents()))
        except CorruptImage:
            return digest(b"unreadable", self.name.encode(errors="surrogateescape"))

    def load(self) -> Picture:
        """The values of all files together.

        Raises:
            MaskFault: If a file cannot be read or decoded, or is of another size than the others.
        """
        values = [decode.decode_values(content) for content in self._contents()]
        if any(one.shape != values[0].shape for one in values):
            raise MaskFault("mask_size", "its files are of different sizes")
        return Picture(np.maximum.reduce(values))

    def _contents(self) -> list[bytes]:
        try:
            return [file.read_bytes() for file in self.files]
        except OSError as error:
            reason = f"{error.filename} cannot be read: {error.strerror}"
            raise MaskFault("missing", reason) from error
