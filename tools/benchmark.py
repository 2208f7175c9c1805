"""Measures how fast federations train on this machine, always two sides in one process.

    python -m tools.benchmark packing
    python -m tools.benchmark pretrain --size=ti --image_size=224 --batch_size=16

Prints a table, and writes figures with machine, versions and settings to --out as JSON. Times are
medians over repeats after a warm-up, with their spread; quote ratios, since machines differ.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from ufm_jax.fed.algorithm import LossFn
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement, make_placement
from ufm_jax.models.flops import mae_forward_flops, training_flops
from ufm_jax.models.sizes import SIZES
from ufm_jax.train.config import (
    AugmentConfig,
    ModelConfig,
    OptimizerConfig,
    PlacementConfig,
    ScheduleConfig,
)
from ufm_jax.train.objective import init_params, make_loss
from ufm_jax.train.optimizers import make_optimizer, warmup_cosine
from ufm_jax.train.runtime import configure_jax


def main() -> None:
    """Parses arguments, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("packing", packing), ("pretrain", pretrain)):
        command = commands.add_parser(name, help=(run.__doc__ or "").split("\n")[0])
        _add_model_options(command)
        command.add_argument("--repeats", type=int, default=5)
        command.add_argument("--lanes", type=int, default=1)
        command.add_argument("--cpu_devices", type=int, default=0, help="0: one a core")
        command.add_argument("--out", type=Path, default=None, help="a JSON file")
        command.set_defaults(run=run)
    options = parser.parse_args()
    configure_jax(PlacementConfig(cpu_devices=options.cpu_devices))
    rows = options.run(options)
    _print(options.command, rows)
    if options.out:
        settings = {k: v for k, v in vars(options).items() if k not in ("run", "out")}
        options.out.write_text(
            json.dumps({"settings": settings, "machine": machine(), "figures": rows}, indent=2)
        )


def packing(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A ragged round against a balanced one of the same total number of steps."""
    placement = make_placement(None, options.lanes)
    lanes = placement.num_devices * placement.lanes
    steps = _ragged_steps(16, total=32 * lanes)
    even = np.full(16, steps.sum() // 16)
    sides = {
        "ragged": _round_of(options, placement, steps),
        "balanced": _round_of(options, placement, even),
    }
    seconds = _interleaved({name: side[0] for name, side in sides.items()}, options.repeats)
    return [
        _row(name, seconds[name], seconds["balanced"])
        | {"steps": int(count.sum()), "useful": round(sides[name][1], 4)}
        for name, count in (("ragged", steps), ("balanced", even))
    ]


def pretrain(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The full step (augmentation to average), and the same with cropping and flipping only."""
    placement = make_placement(None, options.lanes)
    per_client = np.full(placement.num_devices * placement.lanes, options.steps)
    plain = AugmentConfig(degrade=0.0, scan_conversion=0.0)
    sides = {
        "everything": _round_of(options, placement, per_client)[0],
        "crop and flip only": _round_of(options, placement, per_client, plain)[0],
    }
    seconds = _interleaved(sides, options.repeats)
    images = int(per_client.sum()) * options.batch_size
    model = _model(options)
    flops = training_flops(
        mae_forward_flops(
            SIZES[model.size],
            model.num_patches,
            model.num_kept,
            model.patch_size**2 * model.channels,
            model.decoder_width,
            model.decoder_depth,
        )
    )
    return [
        _row(name, values, seconds["everything"])
        | {
            "images/s": round(images / float(np.median(values)), 1),
            "model GFLOP/s": round(images * flops / float(np.median(values)) / 1e9, 1),
        }
        for name, values in seconds.items()
    ]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="ti", choices=list(SIZES))
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--patch_size", type=int, default=16)
    parser.add_argument("--decoder", type=int, nargs=3, default=(128, 2, 4), metavar="N")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4, help="local steps a client (pretrain)")


def _model(options: argparse.Namespace) -> ModelConfig:
    width, depth, heads = options.decoder
    return ModelConfig(
        size=options.size,
        image_size=options.image_size,
        patch_size=options.patch_size,
        decoder_width=width,
        decoder_depth=depth,
        decoder_heads=heads,
        dtype=options.dtype,
    )


def _ragged_steps(clients: int, total: int) -> np.ndarray:
    """Log-normal (sigma 1) step counts that sum to ``total``, a multiple of ``clients``."""
    sizes = np.random.default_rng(0).lognormal(0.0, 1.0, clients)
    steps = np.maximum(1, np.floor(sizes / sizes.sum() * total)).astype(int)
    steps[np.argsort(-sizes)[: total - steps.sum()]] += 1
    return steps


def _round_of(
    options: argparse.Namespace,
    placement: Placement,
    steps: np.ndarray,
    augment: AugmentConfig | None = None,
) -> tuple[Callable[[], None], float]:
    """A function that runs one round and waits for it, and the round's useful fraction."""
    model = _model(options)
    loss_fn: LossFn = make_loss(model, augment or AugmentConfig())
    batch, stored = options.batch_size, 256
    offsets = np.concatenate([[0], np.cumsum(steps * batch)])
    schedule = ScheduleConfig()
    federation = Federation(
        loss_fn,
        fedavg(
            make_optimizer(OptimizerConfig(), batch),
            client_state="persist",
            lr_factor=warmup_cosine(300, schedule.warmup_rounds),
        ),
        offsets,
        Batching(batch),
        placement=placement,
    )
    rng = np.random.default_rng(0)
    count = int(offsets[-1])
    examples = federation.replicate(
        {
            "image": rng.integers(0, 255, (count, stored, stored, 1), dtype=np.uint8),
            "extent": np.full((count, 2), stored, np.int32),
            "geometry": np.tile(
                np.array([[1, 0, 0, stored - 1, stored - 1, 0, 0]], np.float32), (count, 1)
            ),
        }
    )
    state = federation.init(init_params(model, jax.random.key(0)))
    plan = federation.plan(0)

    def run() -> None:
        nonlocal state
        state, _ = federation.run_round(state, examples, plan)
        jax.block_until_ready(state)

    return run, plan.schedule.useful_fraction


def _interleaved(sides: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, taken in turn so that a drifting machine hurts all alike."""
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _row(name: str, seconds: list[float], base: list[float]) -> dict[str, Any]:
    return {
        "side": name,
        "seconds": round(float(np.median(seconds)), 4),
        "from": round(min(seconds), 4),
        "to": round(max(seconds), 4),
        "ratio": round(float(np.median(np.divide(seconds, base))), 3),
    }


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
