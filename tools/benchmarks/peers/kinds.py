"""The peers of the comparisons: what each needs, and how it is started."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tools.benchmarks.peers.environment import (
    TORCH,
    EnvironmentMissingError,
    find_python,
    make_environment,
)
from tools.benchmarks.peers.process import Peer

_FOLDER = Path(__file__).parent
_ROOT = Path(__file__).resolve().parents[3]


class PeerKind(NamedTuple):
    """How to run a peer.

    Attributes:
        script: In this folder.
        requirements: What pip installs for it, by accelerator.
        variables: Environment variables on top of this process's.
        python: The least version that it needs.
    """

    script: str
    requirements: Mapping[str, tuple[str, ...]]
    variables: Mapping[str, str]
    python: tuple[int, int] = (3, 11)


def _with_torch(*requirements: str) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType(
        {accelerator: (*requirements, torch) for accelerator, torch in TORCH.items()}
    )


_FEDJAX = ("fedjax==0.0.17", "dm-haiku==0.0.17", "optax==0.2.8", "numpy<2.5")
# While it waits for its turn, threads of PyTorch must not spin.
_PATIENT = {"OMP_WAIT_POLICY": "passive"}

PEERS = {
    "fedjax": PeerKind(
        "fedjax_side.py",
        {"cpu": (*_FEDJAX, "jax==0.10.2"), "cuda": (*_FEDJAX, "jax[cuda13]==0.10.2")},
        # Several processes share an accelerator; jax reserves three quarters of it by itself.
        {
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_DEFAULT_MATMUL_PRECISION": "float32",
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3",
        },
    ),
    "pfl": PeerKind("pfl_side.py", _with_torch("pfl==0.6.0", "numpy<2.5"), _PATIENT),
    "blazefl": PeerKind(
        "blazefl_side.py",
        _with_torch("blazefl[contrib,reproducibility]==3.0.0"),
        {**_PATIENT, "TQDM_DISABLE": "1"},
        (3, 14),
    ),
    "flower": PeerKind(
        "flower_side.py",
        _with_torch("flwr[simulation]==1.42.0"),
        {
            **_PATIENT,
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Otherwise it warns.
        },
    ),
}


@contextmanager
def running_peers(
    names: list[str], accelerator: str
) -> Iterator[tuple[dict[str, Peer], tuple[str, ...]]]:
    """Starts peers, each in an environment that is made where it is missing.

    Args:
        names: Among ``PEERS``.
        accelerator: ``cpu`` or ``cuda``.

    Yields:
        Those that run here, and a note for each that does not.
    """
    peers, notes = {}, []
    with ExitStack() as stack:
        for name in names:
            try:
                peers[name] = stack.enter_context(_start(name, accelerator))
            except EnvironmentMissingError as error:
                notes.append(f"{name} is left out: {error}.")
                print(notes[-1], flush=True)
        yield peers, tuple(notes)


def _start(name: str, accelerator: str) -> Peer:
    kind = PEERS[name]
    variables = {**os.environ, **kind.variables, "PYTHONPATH": str(_ROOT)}
    variables["JAX_PLATFORMS"] = accelerator
    if accelerator == "cpu":
        variables |= {"PFL_PYTORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    interpreter = find_python(kind.python)
    if interpreter.name.endswith("t"):
        variables["PYTHON_GIL"] = "0"
    requirements = kind.requirements[accelerator]
    python = make_environment(f"{name}-{accelerator}", requirements, interpreter)
    return Peer(python, _FOLDER / kind.script, variables)
