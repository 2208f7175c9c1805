"""The architecture of the model in a PyTorch state dict, from its names and shapes."""

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ufm_jax.interop.torch_names import State, fixed_position
from ufm_jax.interop.torch_rules import Pool

Kind = Literal["mae", "classifier", "encoder"]

_ROUNDING = {"float16": 2.0**-11, "float32": 1e-5, "float64": 1e-5}
"""Largest error of a fixed position embedding, whose values are at most 1, in each type.

It is tight, because a fine-tuned embedding, which is not fixed, may be close to its start.
"""


@dataclass(frozen=True)
class Architecture:
    """A vision transformer.

    Attributes:
        kind: 'mae' has a decoder, 'classifier' a head.
        width: D, the encoder's.
        depth: The encoder's blocks.
        patch_size: Side of a patch in pixels.
        channels: Channels of an image.
        grid: Patches down and across.
        learned_position: Whether the position embedding is a parameter and not the fixed one.
        pool: A classifier's; see ``models.classifier``.
        classes: A classifier's outputs.
        decoder: Width and depth of an autoencoder's decoder.
    """

    kind: Kind
    width: int
    depth: int
    patch_size: int
    channels: int
    grid: tuple[int, int]
    learned_position: bool
    pool: Pool | None = None
    classes: int | None = None
    decoder: tuple[int, int] | None = None

    def __str__(self) -> str:
        rows, columns = (n * self.patch_size for n in self.grid)
        parts = [
            f"{self.kind}: width {self.width}, {self.depth} blocks",
            f"patches of {self.patch_size}",
            f"images of {rows} x {columns} x {self.channels}",
            f"{'learned' if self.learned_position else 'fixed'} position embedding",
        ]
        if self.decoder:
            parts.append(f"decoder of width {self.decoder[0]}, {self.decoder[1]} blocks")
        if self.pool:
            pooled = {"mean": "mean patch token", "class": "class token"}[self.pool]
            parts.append(f"head of {self.classes} classes on the {pooled}")
        return ", ".join(parts)


def describe(state: State, grid: tuple[int, int] | None = None) -> Architecture:
    """The architecture of a state dict with the names of MAE and timm.

    Args:
        state: Arrays by PyTorch name.
        grid: Patches down and across; None for a square image.

    Raises:
        ValueError: If this is not a vision transformer of this family, or the grid does not fit.
            Missing and unexpected names are left to the conversion, which lists them.
    """
    kernel = _array(state, "patch_embed.proj.weight", 4)
    position = _array(state, "pos_embed", 3)
    _, channels, patch_size, across = kernel.shape
    if patch_size != across:
        raise ValueError(f"patch_embed.proj.weight: patches of {patch_size} x {across} pixels")
    kind: Kind = "encoder"
    pool: Pool | None = None
    classes = decoder = None
    if any(name == "mask_token" or name.startswith("decoder_") for name in state):
        kind = "mae"
        width = _array(state, "decoder_embed.weight", 2).shape[0]
        decoder = (width, count_blocks(state, "decoder_blocks"))
    elif any(name.startswith("head.") for name in state):
        kind = "classifier"
        classes = _array(state, "head.weight", 2).shape[0]
        pool = "mean" if "fc_norm.weight" in state else "class"
    grid = _grid(position, grid)
    return Architecture(
        kind=kind,
        width=kernel.shape[0],
        depth=count_blocks(state, "blocks"),
        patch_size=patch_size,
        channels=channels,
        grid=grid,
        learned_position=kind != "mae" and not _is_fixed(position, grid),
        pool=pool,
        classes=classes,
        decoder=decoder,
    )


def _array(state: State, name: str, axes: int) -> np.ndarray:
    if name not in state:
        shown = ", ".join(list(state)[:8])
        raise ValueError(
            f"no {name} among its {len(state)} names ({shown}, ...): give a vision transformer "
            "with a class token and the names of MAE or timm"
        )
    if state[name].ndim != axes:
        raise ValueError(f"{name}: shape {state[name].shape}, but it should have {axes} axes")
    return state[name]


def count_blocks(state: State, name: str) -> int:
    """Number of blocks named ``name.0 ..``; holes in the numbering show as missing names."""
    matches = (re.match(rf"{name}\.(\d+)\.", key) for key in state)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _grid(position: np.ndarray, grid: tuple[int, int] | None) -> tuple[int, int]:
    patches = position.shape[1] - 1
    rows, columns = grid or (math.isqrt(max(patches, 0)),) * 2
    if rows * columns != patches or patches < 1:
        raise ValueError(
            f"pos_embed: shape {position.shape} is not [1, 1 + {rows} x {columns}, channels]; give "
            "the grid if the images are not square; models without a class token, or with more "
            "tokens beside the patches, are not supported"
        )
    return rows, columns


def _is_fixed(position: np.ndarray, grid: tuple[int, int]) -> bool:
    width = position.shape[2]
    if width % 4:
        return False
    error = np.abs(position.astype(np.float64) - fixed_position(width, grid)).max()
    return bool(error <= _ROUNDING.get(position.dtype.name, 0.0))
