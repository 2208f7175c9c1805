"""Encoders that come with the project, in its folder ``weights``, and are loaded by name."""

from pathlib import Path

from ufm_jax.errors import ConfigError
from ufm_jax.files import digest_of, user_path

FOLDER = Path(__file__).resolve().parents[2] / "weights"

SHA256 = {"ufm_ti16": "ba57868e432f582488905b9e3f09c5047ea877ae0d656b152fabe0c53a957164"}
"""Name -> SHA-256 of its file; weights/README.md says what it was trained on."""


def weights_path(text: str) -> Path:
    """The file or folder of weights that a user names.

    Args:
        text: A name of ``SHA256``, or a path; ``./ufm_ti16`` is a path.

    Raises:
        ConfigError: If the file of a shipped encoder is absent, or is another than was shipped.
        RunError: If it cannot be read.
    """
    if text not in SHA256:
        return user_path(text)
    path = FOLDER / f"{text}.safetensors"
    remedy = f"take it from a clone of the project, or give a path (./{text} for one of your own)"
    if not path.exists():
        raise ConfigError(f"the weights {text!r} should be at {path} and are not: {remedy}")
    found = digest_of(path)
    if found != SHA256[text]:
        raise ConfigError(
            f"{path} has SHA-256 {found}, the weights {text!r} have {SHA256[text]}: {remedy}"
        )
    return path
