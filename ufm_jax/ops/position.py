"""The fixed 2-D sine-cosine position embedding of the masked autoencoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022; sines and cosines of
Vaswani et al., "Attention Is All You Need", 2017.
"""

import numpy as np

_BASE = 10000.0


def sincos_2d(dim: int, grid_h: int, grid_w: int, cls_token: bool) -> np.ndarray:
    """The position embedding of a grid of patches.

    A coordinate x gets sin(x w_i) and then cos(x w_i), with w_i = 10000^(-i / (D / 4)). The first
    half of the channels holds the column, the second the row, as published models have it.

    Args:
        dim: Channels D; a multiple of 4.
        grid_h: Patches down.
        grid_w: Patches across.
        cls_token: Whether a row of zeros, for the class token, comes before the patches.

    Returns:
        float32 [N, D], or [N + 1, D] with the class token. It is a numpy array, and so a constant
        of a traced program.

    Raises:
        ValueError: If ``dim`` is not a positive multiple of 4, or the grid is empty.
    """
    if dim < 4 or dim % 4:
        raise ValueError(f"dim={dim}: sincos_2d needs a positive multiple of 4")
    if grid_h < 1 or grid_w < 1:
        raise ValueError(f"grid of {grid_h} x {grid_w}: sincos_2d needs at least one patch")
    rows, columns = np.mgrid[:grid_h, :grid_w]
    embedding = np.concatenate([_sincos(dim // 2, columns), _sincos(dim // 2, rows)], axis=1)
    if cls_token:
        embedding = np.concatenate([np.zeros((1, dim)), embedding])
    return embedding.astype(np.float32)


def _sincos(dim: int, coordinates: np.ndarray) -> np.ndarray:
    """float64 [N, dim] sines, then cosines, of N coordinates."""
    frequencies = _BASE ** (-np.arange(dim // 2) / (dim / 2))
    angles = np.outer(coordinates.ravel(), frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
