"""Compiles a round for accelerators that need not be there: does it fit, and what can it reach?"""

import argparse
import os
import re
from dataclasses import asdict
from importlib import metadata
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import jax

from tools.benchmarks.compile_report import zones_of
from tools.benchmarks.compile_tables import Outcome, figures
from tools.benchmarks.compile_work import Work, configuration
from tools.benchmarks.hlo import read_module
from tools.benchmarks.models import MODELS
from tools.benchmarks.output import Figures
from tools.benchmarks.peers.environment import make_environment
from tools.benchmarks.peers.process import Peer
from tools.benchmarks.targets import Target, target_of
from ufm_jax.config.command import count_argument, path_argument
from ufm_jax.models.sizes import SIZES

_ROOT = Path(__file__).resolve().parents[2]
_SIDE = Path(__file__).parent / "peers" / "compile_side.py"
_EXTRAS = {"cuda": "jax[cuda13]", "tpu": "jax[tpu]"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--target", nargs="+", type=_target, default=["h200"])
    parser.add_argument(
        "--config",
        default=str(_ROOT / "configs" / "ultrafedfm_vit_b16.py"),
        help="a configuration of pretraining; its data need not be there",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change the configuration"
    )
    parser.add_argument("--size", choices=list(SIZES), help="model.size of the configuration")
    parser.add_argument("--batch_size", type=count_argument, help="images of a local step")
    parser.add_argument("--lanes", type=count_argument, nargs="+", default=[1])
    parser.add_argument(
        "--devices", type=count_argument, nargs="+", default=[1], help="of one host or slice"
    )
    parser.add_argument(
        "--images", type=count_argument, default=1_000_000, help="of all clients together"
    )
    parser.add_argument("--clients", type=count_argument, default=16)
    parser.add_argument("--model", choices=list(MODELS), help="a model of 'engine' instead")
    parser.add_argument(
        "--hlo",
        type=path_argument,
        help="keeps the compiled text in this file, named after each of several",
    )


def measure(options: argparse.Namespace) -> Figures:
    """One row for every target, number of devices and number of lanes.

    Raises:
        ConfigError: If the configuration or a change of it is wrong.
    """
    outcomes = []
    asked = list(product(options.target, options.devices, options.lanes))
    for target, devices, lanes in asked:
        work = _work(options, devices, lanes)
        if not work.model:
            configuration(work)  # A fault of the configuration would fail for every target.
        print(f"compiling for {target}, {devices} devices, {lanes} lanes", flush=True)
        kept = options.hlo
        if kept and len(asked) > 1:
            name = f"{kept.stem}-{target.replace(':', '_')}-{devices}x{lanes}"
            kept = kept.with_stem(name)
        outcomes.append(_outcome(target, work, kept))
    return figures(outcomes)


def _target(text: str) -> str:
    try:
        target_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _work(options: argparse.Namespace, devices: int, lanes: int) -> Work:
    changes = list(options.set)
    if options.size:
        changes.append(f"model.size={options.size}")
    if options.batch_size and not options.model:
        changes.append(f"federation.batch_size={options.batch_size}")
    return Work(
        config=options.config,
        changes=tuple(changes),
        model=options.model or "",
        images=options.images,
        clients=options.clients,
        batch_size=options.batch_size or 20,
        lanes=lanes,
        devices=devices,
    )


def _outcome(target: str, work: Work, kept: Path | None) -> Outcome:
    asked, described = (target, work.devices, work.lanes), target_of(target)
    with TemporaryDirectory(prefix="benchmark-compile-") as folder:
        file = kept or Path(folder) / "program.hlo"
        try:
            python = environment_of(described)
            with Peer(python, _SIDE, _variables(described, work.devices)) as peer:
                answer = peer.ask("compile", target=target, text=str(file), **asdict(work))
        except RuntimeError as error:
            return Outcome(*asked, reason=_one_line(str(error)))
        if answer["unprintable"]:
            return Outcome(*asked, answer=answer, unread=answer["unprintable"])
        try:
            zones = zones_of(read_module(file.read_text(encoding="utf-8")))
        except ValueError as error:
            return Outcome(*asked, answer=answer, unread=_one_line(str(error)))
        return Outcome(*asked, answer=answer, zones=zones)


def environment_of(target: Target) -> Path:
    """The Python that holds the compiler of a target, with this project's dependencies as here.

    Raises:
        RuntimeError: If pip could not install them.
    """
    needed = [r for r in metadata.requires("ufm-jax") or () if "extra ==" not in r]
    names = [found[0] for r in needed if (found := re.match(r"[\w.-]+", r)) and found[0] != "jax"]
    pinned = [f"{name}=={metadata.version(name)}" for name in sorted(names)]
    return make_environment(
        f"compile-{target.platform}", [f"{_EXTRAS[target.platform]}=={jax.__version__}", *pinned]
    )


def _variables(target: Target, devices: int) -> dict[str, str]:
    flags = os.environ.get("XLA_FLAGS", "")
    if target.platform == "cuda":  # Without a device products cannot be tuned.
        flags = f"{flags} --xla_gpu_autotune_level=0".strip()
    return {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # None is used, which one process would own.
        "XLA_FLAGS": flags,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _one_line(text: str, most: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
