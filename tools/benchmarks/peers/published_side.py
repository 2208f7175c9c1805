"""The published pipeline's side of pretraining: UltraFedFM's own code, imported from a checkout.

Needs PyTorch, torchvision, timm, OpenCV and matplotlib. What is written here is the loop around
that code, as its main_pretrain.py and FedAvg_utils.py have it for a client, and stand-ins for what
newer libraries have removed since it was published.
"""

import argparse
import itertools
import os
import random
import sys
import time
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]

from tools.benchmarks.peers.process import Message, serve

_SCALE = 256
"""The batch for which its learning rate is given."""

_AHEAD = 2
"""Batches that each worker of a DataLoader makes ahead, its default."""


def restore_removed_names() -> list[Any]:
    """Puts back what the published code and its libraries look for; keep what is returned.

    Returns:
        Declared operators, which exist as long as these objects.
    """
    vars(np)["float"] = float  # numpy 1.24 removed it.
    six = types.ModuleType("torch._six")  # PyTorch 2.0 removed it.
    six.inf = float("inf")  # type: ignore[attr-defined]
    sys.modules["torch._six"] = six
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *_: None  # Its step calls this on every device.
    try:
        import torchvision  # type: ignore[import-not-found]  # noqa: F401
    except RuntimeError:
        # Built for CUDA, it does not find its operators beside PyTorch for CPU, and asks for two.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return [library]
    return []


class Batches:
    """So many batches of a loader, and the seconds that those after the first ones took.

    Attributes:
        seconds: From the request for the first batch that counts to the one after the last.
    """

    def __init__(self, batches: Iterator[Any], warmup: int, count: int) -> None:
        self._batches, self._warmup, self._count = batches, warmup, count
        self.seconds = 0.0

    def __len__(self) -> int:
        return self._warmup + self._count

    def __iter__(self) -> Iterator[Any]:
        yield from itertools.islice(self._batches, self._warmup)
        begin = time.perf_counter()
        yield from itertools.islice(self._batches, self._count)
        self.seconds = time.perf_counter() - begin


class PublishedSide:
    """Answers to requests, with the model between them."""

    def load(
        self,
        checkout: str,
        root: str,
        list_file: str,
        weights: str,
        model: dict[str, Any],
        batch_size: int,
        half: bool,
    ) -> Message:
        """Builds the published model with our weights, its dataset and its optimiser.

        Args:
            checkout: Folder of the published code.
            root: Folder that the list's paths are relative to.
            list_file: Images, a path a line.
            weights: The model's state, an npz file.
            model: Arguments of its class.
            batch_size: B.
            half: Whether its step may use half precision, as published; on CUDA alone.
        """
        sys.path.insert(0, checkout)
        self._operators = restore_removed_names()
        from engine_pretrain import train_one_epoch  # type: ignore[import-not-found]
        from models_mae import MaskedAutoencoderViT  # type: ignore[import-not-found]
        from util.datasets_fed import DatasetFLPretrain  # type: ignore[import-not-found]
        from util.misc import (  # type: ignore[import-not-found]
            NativeScalerWithGradNormCount,
        )

        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(0)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._half, self._batch_size = half, batch_size
        self._args = _arguments(root, Path(list_file), model["img_size"], batch_size)
        self._dataset = DatasetFLPretrain(self._args)
        norm = partial(torch.nn.LayerNorm, eps=1e-6)
        self._model = MaskedAutoencoderViT(mlp_ratio=4, norm_layer=norm, **model)
        with np.load(weights) as state:
            self._model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
        self._model.to(self._device)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=self._args.lr, betas=(0.9, 0.95), weight_decay=0.05
        )
        self._train, self._scaler = train_one_epoch, NativeScalerWithGradNormCount()
        return {"note": _versions(self._device, half)}

    def check(self, file: str) -> Message:
        """The loss of a batch in float32, and the batch itself as an npz file.

        The file has ``clean`` and ``degraded`` [B, 3, H, W] as its dataset gives them, and
        ``noise`` [B, N]: a permutation for each image, under which the model masks.
        """
        items = [self._dataset[i] for i in range(min(self._batch_size, len(self._dataset)))]
        clean, degraded, scores = (torch.stack(parts) for parts in zip(*items, strict=True))
        rng = np.random.default_rng(0)
        noise = rng.permuted(np.tile(np.arange(scores.shape[1]), (len(items), 1)), axis=1)
        np.savez(file, clean=clean.numpy(), degraded=degraded.numpy(), noise=noise)
        parts = [part.to(self._device) for part in (clean, degraded, scores)]
        _allow_tf32(False)
        with torch.no_grad(), _sampled(torch.from_numpy(noise).to(self._device)):
            loss, _, _ = self._model(*parts, mask_ratio=self._args.mask_ratio)
        return {"loss": float(loss)}

    def run(self, batches: int, workers: int) -> Message:
        """Times training on ``batches`` batches, after those that bring the loader up to speed.

        Each worker is two batches ahead at most. Once twice as many are used, they are used as fast
        as they are made; and as many more are made, so that workers work until the end.
        """
        torch.backends.cudnn.benchmark = True  # As its main does.
        _allow_tf32(True)  # As XLA does by default.
        ahead = _AHEAD * workers
        warmup = 2 + ahead
        loader = self._loader(warmup + batches + ahead, workers)
        counted = Batches(loader, warmup, batches)
        with _autocast_if(self._half):
            self._train(
                self._model,
                counted,
                self._optimizer,
                self._device,
                self._args.warmup_epochs,
                self._scaler,
                "all",
                max_norm=None,
                proxy_single_client="all",
                log_writer=None,
                args=self._args,
            )
        return {"seconds": counted.seconds}

    def _loader(self, batches: int, workers: int) -> Iterator[Any]:
        """The published DataLoader over images drawn with replacement: more than there may be."""
        count = batches * self._batch_size
        sampler = torch.utils.data.RandomSampler(self._dataset, replacement=True, num_samples=count)
        return iter(
            torch.utils.data.DataLoader(
                self._dataset,
                sampler=sampler,
                batch_size=self._batch_size,
                num_workers=workers,
                pin_memory=self._device.type == "cuda",
                drop_last=True,
            )
        )


def _arguments(root: str, list_file: Path, image_size: int, batch_size: int) -> argparse.Namespace:
    """The published code's command line, with its defaults. The absolute folder overrides."""
    return argparse.Namespace(
        data_path=root,
        n_clients=1,
        split_type=str(list_file.parent),
        single_client=list_file.name,
        input_size=image_size,
        accum_iter=1,
        mask_ratio=0.75,
        lr=1e-3 * batch_size / _SCALE,
        min_lr=0.0,
        warmup_epochs=40,
        epochs=400,
    )


def _allow_tf32(allowed: bool) -> None:
    """Whether float32 products on CUDA may round their inputs to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def _sampled(noise: Any) -> Iterator[None]:
    """Lets the model's draw of a mask give ``noise``, which it sorts as it would the draw."""
    drawn = torch.multinomial
    torch.multinomial = lambda *_, **__: noise
    try:
        yield
    finally:
        torch.multinomial = drawn


@contextmanager
def _autocast_if(half: bool) -> Iterator[None]:
    """Its step always asks for half precision, which float32 must not be compared with."""
    autocast = torch.cuda.amp.autocast
    if not half:
        torch.cuda.amp.autocast = partial(torch.autocast, "cuda", enabled=False)
    try:
        yield
    finally:
        torch.cuda.amp.autocast = autocast


def _versions(device: Any, half: bool) -> str:
    import timm  # type: ignore[import-not-found]
    import torchvision

    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return (
        f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}, timm "
        f"{timm.__version__}, {torch.get_num_threads()} threads, {name}, "
        f"{'automatic mixed precision' if half else 'float32'}"
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    side, answers = PublishedSide(), sys.stdout
    with open(os.devnull, "w", encoding="utf-8") as sys.stdout:  # Its step reports progress.
        serve({"load": side.load, "check": side.check, "run": side.run}, answers)
