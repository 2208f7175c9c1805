"""The facts that the report of a training run shows, besides its history."""

import dataclasses
import platform
from importlib.metadata import version
from typing import Any

_PACKAGES = (
    "ufm-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scikit-learn",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages on which a run's figures depend."""
    return {name: version(name) for name in _PACKAGES} | {"Python": platform.python_version()}


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """Facts about a run that do not change from round to round.

    Attributes:
        name: The config's name; the report's title.
        created: Date of the report, as it shall be printed.
        config: The resolved config, nested dicts of plain values.
        versions: Software name -> version.
        device: The accelerator in words, such as ``NVIDIA H100 80GB``.
        num_parameters: Parameters of the trained model, encoder and decoder.
        num_devices: Devices the lanes spread over.
        lanes: Lanes on each device.
        compile_seconds: Time spent compiling the round, in all.
        compilations: How often the round was compiled; 1 is as intended.
        notes: Sentences to print below the summary.
    """

    name: str
    created: str
    config: dict[str, Any]
    versions: dict[str, str]
    device: str
    num_parameters: int
    num_devices: int
    lanes: int
    compile_seconds: float
    compilations: int
    notes: list[str] = dataclasses.field(default_factory=list)
