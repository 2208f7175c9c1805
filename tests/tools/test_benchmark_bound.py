"""What is measured beside the compiled program's bound, where the accelerator is known."""

from types import SimpleNamespace

import jax
import pytest

from tools.benchmarks import bound
from tools.benchmarks.targets import TARGETS


@pytest.mark.parametrize(
    ("kind", "name"), [("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100"), ("cpu", None)]
)
def test_this_machine_is_found_among_the_targets(kind, name, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    assert bound.here() is (TARGETS[name] if name else None)
