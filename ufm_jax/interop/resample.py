"""Weights of a vision transformer at another image size or patch size.

Position embeddings are resampled bicubically, as PyTorch's ``interpolate`` does; the kernel of the
patch embedding by the pseudo-inverse resize of Beyer et al., "FlexiViT: One Model for All Patch
Sizes", CVPR 2023, eq. 4.
"""

import numpy as np


def resample_position(
    embedding: np.ndarray,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    antialias: bool = True,
) -> np.ndarray:
    """A position embedding for another grid of patches.

    Args:
        embedding: [1, 1 + N, D]; the class token's row comes first and stays as it is.
        old_grid: Patches down and across; their product is N.
        new_grid: Patches down and across of the result.
        antialias: True as in timm, False as in MAE's fine-tuning code and its descendants. The two
            also differ where the grid grows, since their cubic kernels have other parameters.

    Returns:
        float32 [1, 1 + M, D].
    """
    _, _, width = embedding.shape
    grid = embedding[0, 1:].reshape(*old_grid, width)
    down, across = (
        _bicubic(old, new, antialias) for old, new in zip(old_grid, new_grid, strict=True)
    )
    resampled = np.einsum("ai,bj,ijd->abd", down, across, grid, optimize=True)
    rows = [embedding[0, :1], resampled.reshape(-1, width)]
    return np.concatenate(rows).astype(np.float32)[None]


def resample_kernel(weight: np.ndarray, patch_size: int) -> np.ndarray:
    """A patch embedding's kernel for another patch size.

    If the matrix B resizes a patch from the old size to the new, the new kernel is pinv(B^T) w. If
    B loses nothing (the new patch is larger), a resized patch has the embedding of the patch,
    <x, w> = <B x, w'>; otherwise it has the nearest embedding in the mean over white patches. Plain
    bicubic resizing would scale the embedding with the patch's area.

    Args:
        weight: [D, C, P, P].
        patch_size: The new P.

    Returns:
        float32 [D, C, P', P'].
    """
    # B is a Kronecker product of this matrix with itself, and so is its pseudo-inverse.
    axis = np.linalg.pinv(_bicubic(weight.shape[-1], patch_size, antialias=True).T)
    return np.einsum("ap,bq,dcpq->dcab", axis, axis, weight, optimize=True).astype(np.float32)


def _bicubic(old: int, new: int, antialias: bool) -> np.ndarray:
    """float64 [new, old] weight of each old sample in each new one along an axis.

    Sample i of n covers (i .. i + 1) / n of the axis (align_corners=False). With antialiasing the
    kernel (a = -0.5) widens with the scale, and is cut at the border and normalised. Without it the
    kernel (a = -0.75) has four taps, and those beyond the border fall on the sample at the border.
    """
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    if antialias:
        weights = _cubic((np.arange(old) - centres) / max(scale, 1.0), a=-0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    taps = np.floor(centres) + np.arange(-1, 3)
    weights = np.zeros((new, old))
    columns = np.clip(taps, 0, old - 1).astype(int)
    np.add.at(weights, (np.arange(new)[:, None], columns), _cubic(taps - centres, a=-0.75))
    return weights


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys's cubic convolution kernel: 1 at 0, 0 at other integers and from 2 on."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
