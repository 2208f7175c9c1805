"""Pseudonyms: the same patient, the same name, and nothing of the number in it."""

import stat

import pytest

from ufm_jax.data.scans.pseudonyms import KEY_FILE, Pseudonyms, site_key
from ufm_jax.errors import DataError


def test_a_site_keeps_its_key_and_another_has_another(tmp_path):
    key = site_key(tmp_path / "one")
    assert site_key(tmp_path / "one") == key != site_key(tmp_path / "two")
    mode = (tmp_path / "one" / KEY_FILE).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert [file.name for file in (tmp_path / "one").iterdir()] == [KEY_FILE]


def test_pseudonyms_are_hmac_sha256():
    # echo -n 4711 | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...1f
    names = Pseudonyms(bytes(range(32)))
    assert names.of("4711") == "6d45b7f8862dbcd8"
    assert names.of("4711") != names.of("4712")
    assert names.of("4711") != Pseudonyms(bytes(32)).of("4711")
    assert len(names.of("")) == 16


def test_a_damaged_key_is_not_replaced_in_silence(tmp_path):
    site_key(tmp_path)
    (tmp_path / KEY_FILE).write_text("00")
    with pytest.raises(DataError, match="holds no key of pseudonyms; put back the one drawn"):
        site_key(tmp_path)
