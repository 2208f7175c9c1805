"""Our pretraining against the published PyTorch pipeline, in a checkout that the user names.

The code of UltraFedFM (Jiang et al., npj Digital Medicine 8:714, 2025) runs as it is, in a process
and an environment of its own; see ``peers/published_side.py``. First both sides must give the same
loss; then they are timed in turn, data loading included.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tools.benchmarks.images import Images
from tools.benchmarks.measure import Row, Side, interleaved, rates, ratio, timed
from tools.benchmarks.peers.environment import ACCELERATORS, TORCH, make_environment
from tools.benchmarks.peers.process import Peer
from tools.benchmarks.workload import Size, Workload, model_config
from ufm_jax.cluster.process import num_cores
from ufm_jax.config.command import count_argument, count_or_zero, path_argument
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.fed.algorithm import Params
from ufm_jax.interop.convert import params_to_torch
from ufm_jax.models.sizes import SIZES
from ufm_jax.objectives.reconstruction import init_params, make_model
from ufm_jax.ops.losses import masked_patch_loss
from ufm_jax.ops.masking import masking_from_noise
from ufm_jax.ops.patches import patchify

TOLERANCE = 1e-5
"""Relative difference of losses that rounding may explain.

On fresh weights another mask changes the loss by 4e-4 of itself, and the clean input by 8e-4.
"""

_REQUIREMENTS = (
    "timm==0.9.2",
    "opencv-python-headless==5.0.0.93",
    "matplotlib==3.11.2",
    "pillow==13.0.0",
    "numpy<2.5",
    "torchvision==0.28.0",
)

_ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = Path(__file__).parent / "peers" / "published_side.py"

_OURS = "ours"

NOTES = (
    "published: its dataset, augmentation, autoencoder, DataLoader and training step, driven by "
    "its train_one_epoch over one client with all the images, drawn at random. Times start after "
    "the first batches, when its workers are up, and leave out its averaging of models. It has no "
    "scan conversion. ours: the whole round, with the lanes and home of the highest utilisation.",
    "times ours: an image's time over one of ours next to it, median over repeats. "
    "losses apart: relative difference of the losses of one batch of the published dataset, on "
    f"the same weights and mask, in float32; refused above {TOLERANCE:.0e}.",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the comparison's options."""
    parser.add_argument("--published", type=path_argument, help="a checkout of the published code")
    cores = num_cores()
    parser.add_argument(
        "--workers",
        type=count_or_zero,
        nargs="+",
        default=sorted({0, cores // 2, cores}),
        help="of the published DataLoader, each a row",
    )
    parser.add_argument(
        "--batches", type=count_argument, default=12, help="of the published side, a repeat"
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuses what cannot be compared.

    Raises:
        ValueError: Naming the option and the remedy.
    """
    if not (options.published / "models_mae.py").is_file():
        raise ValueError(
            f"--published={options.published}: there is no models_mae.py; name the folder of a "
            "checkout of UltraFedFM"
        )
    if options.data is None:
        raise ValueError("--published reads image files: name a folder of them with --data")
    if jax.default_backend() not in ACCELERATORS:
        raise ValueError(f"--published does not run on {jax.default_backend()}: leave it out")
    if options.dtype != "float32" and jax.default_backend() == "cpu":
        raise ValueError(
            "--published trains in half precision on CUDA alone: use --dtype=float32 here"
        )


def requirements(accelerator: str) -> tuple[str, ...]:
    """What pip installs for the published code on ``cpu`` or ``cuda``."""
    return (*_REQUIREMENTS, TORCH[accelerator])


def compare(
    options: argparse.Namespace, images: Images, configs: Sequence[PretrainConfig]
) -> tuple[list[Row], tuple[str, ...]]:
    """Checks that both sides compute the same, then times them, for each of ours: rows and notes.

    Raises:
        RuntimeError: If an environment cannot be made, or the losses differ.
    """
    accelerator = ACCELERATORS[jax.default_backend()]
    python = make_environment(f"published-{accelerator}", requirements(accelerator))
    rows: list[Row] = []
    notes: dict[str, None] = dict.fromkeys(NOTES)
    variables = {**os.environ, "PYTHONPATH": str(_ROOT)}
    for config in configs:
        size = config.model.size
        with Peer(python, _SCRIPT, variables) as peer, tempfile.TemporaryDirectory() as folder:
            note, apart = check_agreement(peer, options, images, size, Path(folder))
            notes[note] = None
            print(f"measuring the published pipeline, {size}, losses {apart:.0e} apart", flush=True)
            rows.extend(_timed_rows(peer, options, images, config, apart))
    return rows, tuple(notes)


def check_agreement(
    peer: Peer, options: argparse.Namespace, images: Images, size: Size, folder: Path
) -> tuple[str, float]:
    """Loads the published model with our weights, and compares the losses of one batch.

    The published dataset augments and normalises the images; both sides see these, the degraded
    ones and the clean target apart, under one mask. float32 on both sides.

    Args:
        peer: Runs ``published_side.py``.
        options: Model and batch.
        images: The published side reads these.
        size: Of the encoder.
        folder: For the files between the processes.

    Returns:
        What the peer runs on, and the relative difference.

    Raises:
        RuntimeError: If it exceeds ``TOLERANCE``.
    """
    assert images.root is not None
    assert images.list_file is not None
    model = replace(model_config(options, size), dtype="float32")
    params = init_params(model, jax.random.key(0))
    grid = (model.image_size // model.patch_size,) * 2
    weights: dict[str, Any] = params_to_torch(jax.device_get(params), grid)
    np.savez(folder / "weights.npz", **weights)
    answer = peer.ask(
        "load",
        checkout=str(options.published.resolve()),
        root=str(images.root),
        list_file=str(images.list_file),
        weights=str(folder / "weights.npz"),
        model=published_model(model),
        batch_size=options.batch_size,
        half=options.dtype != "float32",
    )
    theirs = peer.ask("check", file=str(folder / "batch.npz"))["loss"]
    with np.load(folder / "batch.npz") as batch:
        ours = loss_of(model, params, batch)
    apart = abs(ours - theirs) / abs(theirs)
    if not apart <= TOLERANCE:  # So that nan is refused too.
        raise RuntimeError(
            f"the published model's loss is {theirs}, ours on the same weights, images and mask is "
            f"{ours}: they compute something else, and their times would mean nothing"
        )
    return f"published: {answer['note']}.", apart


def published_model(model: ModelConfig) -> dict[str, int | bool]:
    """Our model as keyword arguments of the published autoencoder."""
    size = SIZES[model.size]
    return {
        "img_size": model.image_size,
        "patch_size": model.patch_size,
        "embed_dim": size.width,
        "depth": size.depth,
        "num_heads": size.heads,
        "decoder_embed_dim": model.decoder_width,
        "decoder_depth": model.decoder_depth,
        "decoder_num_heads": model.decoder_heads,
        "norm_pix_loss": model.normalise_target,
    }


def loss_of(model: ModelConfig, params: Params, batch: Mapping[str, np.ndarray]) -> float:
    """Our loss of a batch that is normalised and masked already.

    Args:
        model: The model.
        params: Its parameters.
        batch: ``clean`` and ``degraded`` [B, 3, H, W], ``noise`` [B, N]: the patches of the least
            are kept.
    """
    network = make_model(model)

    @jax.jit
    def loss(params: Params, clean: jax.Array, degraded: jax.Array, noise: jax.Array) -> jax.Array:
        seen, target = (
            jax.vmap(lambda image: patchify(image, model.patch_size))(images.transpose(0, 2, 3, 1))
            for images in (degraded, clean)
        )
        masking = jax.vmap(lambda n: masking_from_noise(n, model.num_kept))(noise)
        prediction: jax.Array = network.apply(  # type: ignore[assignment]
            {"params": params}, seen, masking.keep_ids, masking.restore_ids
        )
        losses = jax.vmap(partial(masked_patch_loss, normalise_target=model.normalise_target))
        return losses(prediction, target, masking.mask).mean()

    noise = batch["noise"].astype(np.float32)
    with jax.default_matmul_precision("float32"):
        return float(loss(params, batch["clean"], batch["degraded"], noise))


def _timed_rows(
    peer: Peer, options: argparse.Namespace, images: Images, config: PretrainConfig, apart: float
) -> list[Row]:
    """Ours and each of their settings in turn: a row each."""
    with closing(Workload(config, images.data)) as workload:
        sides: dict[str, Side] = {_OURS: timed(workload.run)}
        counts = {_OURS: workload.images}
        for workers in options.workers:
            name = f"published, {workers} workers"
            sides[name] = partial(_published, peer, options.batches, workers)
            counts[name] = options.batches * options.batch_size
        seconds = interleaved(sides, options.repeats)
    each = {name: [s / counts[name] for s in values] for name, values in seconds.items()}
    return [
        {
            "size": config.model.size,
            "side": name,
            **rates(counts[name], seconds[name]),
            "times ours": ratio(each[name], each[_OURS]),
            "losses apart": f"{apart:.0e}",
        }
        for name in sides
    ]


def _published(peer: Peer, batches: int, workers: int) -> float:
    return float(peer.ask("run", batches=batches, workers=workers)["seconds"])
