"""Encoders that come with the project: whole, small, described, and refused if they are others."""

from pathlib import Path

import pytest

from ufm_jax.errors import ConfigError
from ufm_jax.interop import shipped
from ufm_jax.interop.shipped import SHA256, weights_path

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(SHA256))
def test_the_file_is_the_one_described_and_fits_a_clone(name):
    path = weights_path(name)
    assert path.stat().st_size <= 12e6
    for text in ("README.md", "weights/README.md"):
        assert SHA256[name] in (ROOT / text).read_text(encoding="utf-8")


def test_another_file_of_that_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(ConfigError, match="are not: take it from a clone"):
        weights_path("ufm_ti16")
    (tmp_path / "ufm_ti16.safetensors").write_bytes(b"other")
    own = SHA256["ufm_ti16"]
    with pytest.raises(ConfigError, match=rf"has SHA-256 .*, the weights 'ufm_ti16' have {own}"):
        weights_path("ufm_ti16")


def test_a_name_with_a_folder_is_a_path():
    assert weights_path("./ufm_ti16") == Path("ufm_ti16")
    assert weights_path("") == Path()
