"""The secret from which a private run draws its noise."""

import secrets
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ufm_jax.cluster import hosts
from ufm_jax.config.federation import PrivacyConfig
from ufm_jax.errors import RunError
from ufm_jax.files import replacing

SECRET_FILE = "noise.key"
_PARTS = 4
_REMEDY = "put it back, or start in a new folder"


def noise_words(
    privacy: PrivacyConfig, workdir: Path, *, begun: bool
) -> npt.NDArray[np.uint32] | None:
    """The words of the key of a run's noise, uint32 [2]; None if the run adds no noise.

    A secret is drawn from the operating system when the run begins, and kept in ``workdir``,
    readable by its owner alone; whoever has it can take the noise out of what was published.

    Args:
        privacy: The run's privacy settings.
        workdir: The run's folder.
        begun: Whether the run goes on from a checkpoint.

    Raises:
        RunError: If the run has begun and its secret is gone or damaged.
    """
    if privacy.level == "none":
        return None
    if privacy.noise_seed >= 0:
        return np.random.SeedSequence(privacy.noise_seed).generate_state(2).astype(np.uint32)
    parts = [0] * _PARTS
    with hosts.together(f"reading {workdir / SECRET_FILE}"):
        if hosts.is_first():
            secret = _read_or_draw(workdir / SECRET_FILE, begun)
            parts = list(np.frombuffer(secret, "<u2").astype(int))
    # In parts, since a broadcast carries 31 bits.
    shared = [hosts.from_first(int(part)) for part in parts]
    return np.array(shared, "<u2").view("<u4").astype(np.uint32)


def _read_or_draw(path: Path, begun: bool) -> bytes:
    if begun and not path.exists():
        raise RunError(
            f"{path} is gone: the run cannot go on with the noise that it began with; {_REMEDY}"
        )
    if not begun:
        # An earlier run's secret is not used: the same noise twice would cancel in a difference.
        with replacing(path) as partial:
            partial.write_bytes(secrets.token_bytes(2 * _PARTS))
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error}): {_REMEDY}") from error
    if len(secret) != 2 * _PARTS:
        raise RunError(f"{path} holds {len(secret)} bytes in place of {2 * _PARTS}: {_REMEDY}")
    return secret
