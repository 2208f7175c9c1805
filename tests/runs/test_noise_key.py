"""The key of a private run's noise: drawn once, kept for its owner alone, needed to go on."""

import stat

import numpy as np
import pytest

from ufm_jax.config.federation import PrivacyConfig
from ufm_jax.errors import RunError
from ufm_jax.runs.noise_key import SECRET_FILE, noise_words


def test_a_run_without_noise_has_no_key(tmp_path):
    assert noise_words(PrivacyConfig(), tmp_path, begun=False) is None
    assert not list(tmp_path.iterdir())


def test_a_secret_is_drawn_once_and_is_its_owners(tmp_path):
    private = PrivacyConfig("example")
    first = noise_words(private, tmp_path, begun=False)
    assert first.shape == (2,)
    assert first.dtype == np.uint32
    np.testing.assert_array_equal(noise_words(private, tmp_path, begun=True), first)
    assert stat.S_IMODE((tmp_path / SECRET_FILE).stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    assert (noise_words(private, tmp_path / "other", begun=False) != first).any()


def test_a_run_that_begins_anew_draws_a_new_secret(tmp_path):
    """Else the difference of two published models would show what changed between their data."""
    (tmp_path / "noise.tmp").write_bytes(b"left over")
    (tmp_path / "noise.tmp").chmod(0o644)
    first, second = (noise_words(PrivacyConfig("client"), tmp_path, begun=False) for _ in range(2))
    assert (first != second).any()
    assert stat.S_IMODE((tmp_path / SECRET_FILE).stat().st_mode) == 0o600


def test_all_64_bits_are_used(tmp_path):
    (tmp_path / SECRET_FILE).write_bytes(bytes(range(0xF0, 0xF8)))
    found = noise_words(PrivacyConfig("client"), tmp_path, begun=True)
    assert [hex(word) for word in found] == ["0xf3f2f1f0", "0xf7f6f5f4"]


def test_a_public_seed_gives_the_same_words_and_writes_nothing(tmp_path):
    public = PrivacyConfig("client", noise_seed=7)
    first, second = (noise_words(public, tmp_path, begun=False) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot go on with the noise that it began with"),
        (b"", "holds 0 bytes"),
        ("", "read"),
    ],
)
def test_a_run_whose_secret_is_gone_or_damaged_does_not_go_on(tmp_path, content, message):
    path = tmp_path / SECRET_FILE
    if content is not None:
        path.write_bytes(content) if isinstance(content, bytes) else path.mkdir()
    with pytest.raises(RunError, match=rf"noise\.key .*{message}.*put it back"):
        noise_words(PrivacyConfig("client"), tmp_path, begun=True)
