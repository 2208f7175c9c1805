"""Fixtures and machine settings that every test shares."""

import os
import platform
import re
import signal
import tempfile
from importlib import metadata
from pathlib import Path

import hypothesis
import pytest

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Simulated devices, set before any backend starts: placements over 1, 2 and 8 are compared.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Most of the suite's time goes into compiling programs that run once, so XLA takes shortcuts here;
# `XLA_FLAGS= pytest` compiles as users do. A flag that XLA does not know would end the process.
_QUICK = ["--xla_backend_optimization_level=0"]
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 12):
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_QUICK))

# What one test has compiled, the others read, in whichever process; a fifth of the time goes
# otherwise into the same programs again. The folder goes when the process that made it ends.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="ufm_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

# A shell ignores Ctrl-C for what it starts in the background, and tests that send it inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    """Says which Python and which versions the tests ran with."""
    names = [re.match(r"[\w-]+", r)[0] for r in metadata.requires("ufm-jax") if "extra" not in r]
    versions = [f"{name} {metadata.version(name)}" for name in sorted(names)]
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    terminalreporter.section("versions")
    terminalreporter.line(f"Python {platform.python_version()}, {cpus} CPUs, {', '.join(versions)}")


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder of real ultrasound and reference vectors beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: real ultrasound and reference vectors are not shipped")
    return SHARED


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """Folders of the test's own in place of the user's cache and configuration."""
    for name in ("CACHE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
