"""What privacy, robust rules and compression cost: the same round with each, timed in turn."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np

from tools.benchmarks.images import add_image_options, opened_images
from tools.benchmarks.measure import Row, interleaved, ratio, timed
from tools.benchmarks.output import Figures
from tools.benchmarks.workload import Workload, add_model_options, run_config
from ufm_jax.config.command import count_argument
from ufm_jax.config.federation import (
    AggregationConfig,
    AlgorithmConfig,
    CompressionConfig,
    FederationConfig,
    PrivacyConfig,
)
from ufm_jax.train.lanes.probe import compiled_bytes

PLAIN = "FedAvg"

_NOTES = (
    f"time: a round's over that of {PLAIN}, timed in turn with it; median over the repeats, least "
    "and most. memory: of a device, arguments, temporaries and outputs, as XLA plans the round; "
    "the images are in it. All rounds train on the same images in the same batches, but for "
    "Poisson batches, which are as large on average and have room for more.",
    "examples: microbatch says how many images' gradients are held at once.",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_model_options(parser)
    add_image_options(parser)
    parser.add_argument("--lanes", type=count_argument, default=1)
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of methods")


def measure(options: argparse.Namespace) -> Figures:
    """A row a method."""
    config = run_config(options, options.size, options.lanes)
    federation = replace(config.federation, client_state="reset", client_weights="uniform")
    chosen = {
        name: method
        for name, method in methods(federation).items()
        if name == PLAIN or not options.only or any(part in name for part in options.only)
    }
    with ExitStack() as stack:
        images = stack.enter_context(opened_images(options))
        sides = {
            name: stack.enter_context(
                closing(Workload(replace(config, federation=method), images.data))
            )
            for name, method in chosen.items()
        }
        rows = list(_rows(sides, options.repeats))
    return Figures(rows, None, (images.note, *_NOTES))


def methods(plain: FederationConfig) -> dict[str, FederationConfig]:
    """The methods that are measured, by name."""

    def examples(microbatch: int) -> PrivacyConfig:
        return PrivacyConfig("example", microbatch=microbatch)

    def compressed(kind: str, **numbers: float) -> FederationConfig:
        return replace(plain, compression=CompressionConfig(kind, **numbers))  # type: ignore[arg-type]

    def aggregated(rule: str, **numbers: float) -> FederationConfig:
        return replace(plain, aggregation=AggregationConfig(rule, **numbers))  # type: ignore[arg-type]

    half = plain.batch_size // 2
    return {
        PLAIN: plain,
        "clients: clipped updates, noise": replace(plain, privacy=PrivacyConfig("client")),
        "examples: microbatch 1": replace(plain, privacy=examples(1)),
        f"examples: microbatch {half}": replace(plain, privacy=examples(half)),
        f"examples: microbatch {half}, Poisson batches": replace(
            plain, privacy=examples(half), batch_sampling="poisson"
        ),
        "secure sum without masks": aggregated("secure_sum", masked=False),
        "secure sum with masks": aggregated("secure_sum"),
        "trimmed mean": aggregated("trimmed_mean", hostile=1),
        "multi-Krum": aggregated("multi_krum", hostile=1),
        "geometric median": aggregated("geometric_median"),
        "top-k 1 %": compressed("top_k", fraction=0.01),
        "8 bits": compressed("quantise", bits=8),
        "rank 4": compressed("low_rank", rank=4),
        "SCAFFOLD": replace(plain, algorithm=AlgorithmConfig("scaffold")),
        "FedSAM": replace(plain, algorithm=AlgorithmConfig("fedsam")),
        "Ditto": replace(plain, algorithm=AlgorithmConfig("ditto")),
    }


def _rows(sides: dict[str, Workload], repeats: int) -> Iterator[Row]:
    memory = {name: compiled_bytes(side.lower().compile()) for name, side in sides.items()}
    seconds = interleaved({name: timed(side.run) for name, side in sides.items()}, repeats)
    for name, values in seconds.items():
        times = np.divide(values, seconds[PLAIN])
        yield {
            "method": name,
            "time": ratio(values, seconds[PLAIN]),
            "from": round(float(times.min()), 3),
            "to": round(float(times.max()), 3),
            "memory, MB": round(memory[name] / 2**20),
            "more, MB": round((memory[name] - memory[PLAIN]) / 2**20),
            "round, s": round(float(np.median(values)), 3),
        }
