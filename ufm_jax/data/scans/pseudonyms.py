"""Names for patients that nobody outside the site can turn back.

A patient's number is one of few, so that a plain hash of it would be found by trying all. It is
hashed with a key (HMAC-SHA-256; Krawczyk et al., RFC 2104) that is drawn on first use and stays
with the site: without the key a pseudonym says nothing, with it the same patient has the same one.
"""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from ufm_jax.errors import DataError
from ufm_jax.files import private_folder

KEY_FILE = "pseudonym_key"
_KEY_BYTES = 32
_LETTERS = 16


class Pseudonyms:
    """Pseudonyms under one key."""

    def __init__(self, key: bytes) -> None:
        """Keeps the key; see ``site_key``."""
        if len(key) != _KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes: give {_KEY_BYTES}")
        self._key = key

    def of(self, patient: str) -> str:
        """The pseudonym of a patient's number: 16 hexadecimal digits."""
        return hmac.new(
            self._key, patient.encode(errors="surrogateescape"), hashlib.sha256
        ).hexdigest()[:_LETTERS]


def site_key(folder: Path) -> bytes:
    """The site's key, drawn on first use and readable by its owner alone.

    Args:
        folder: Where it is kept, made if absent: not where anything that leaves the site lies.

    Raises:
        DataError: If the file holds no key.
    """
    file = private_folder(folder) / KEY_FILE
    if not file.exists():
        drawn = file.with_name(f"{KEY_FILE}.{secrets.token_hex(8)}")
        try:
            drawn.touch(0o600)
            drawn.write_text(secrets.token_hex(_KEY_BYTES) + "\n", encoding="ascii")
            with suppress(FileExistsError):  # Another process was as quick: its key holds.
                os.link(drawn, file)
        finally:
            drawn.unlink(missing_ok=True)
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise DataError(
            f"{file}: holds no key of pseudonyms; put back the one drawn, or remove it to have "
            "patients called by new names"
        )
    return key
