"""Fixtures and machine settings that every test shares."""

import os
from pathlib import Path

# Simulated devices, set before any backend starts: placements over 1, 2 and 8 are compared.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder of real ultrasound and reference vectors beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: real ultrasound and reference vectors are not shipped")
    return SHARED
