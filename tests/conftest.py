"""Fixtures and machine settings that every test shares."""

import os
import tempfile
from pathlib import Path

# Simulated devices, set before any backend starts: placements over 1, 2 and 8 are compared.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# What one test has compiled, the others read, in whichever process; a fifth of the time goes
# otherwise into the same programs again. The folder goes when the process that made it ends.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="ufm_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder of real ultrasound and reference vectors beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: real ultrasound and reference vectors are not shipped")
    return SHARED
