"""Smooth random fields: what makes simulated tissue irregular."""

import numpy as np

_LATTICE = 32
_OVERSAMPLING = 4
_FINE = np.arange(_LATTICE * _OVERSAMPLING, dtype=np.float32) / _OVERSAMPLING
# Standard deviation left by quadratic B-spline weights: the mean over offsets of the sum of squared
# weights is 11/20 an axis.
_SPLINE_STD = 0.55


def noise(rng: np.random.Generator, u: np.ndarray, v: np.ndarray | None = None) -> np.ndarray:
    """Smooth Gaussian noise of unit variance at any points of a plane.

    It is a lattice of normal values under quadratic B-splines, and repeats every 32 units. If ``u``
    is a row and ``v`` a column, it is interpolated exactly, one axis at a time; elsewhere
    bilinearly from the spline at quarter units, so that an image takes only a few milliseconds.

    Args:
        rng: Source of the lattice values.
        u: Coordinates in units of the correlation length, [1, B] or [R, B].
        v: The same along the other axis, [R, 1] or [R, B]; none = 0.

    Returns:
        float32, of the common shape of ``u`` and ``v``.
    """
    table = rng.standard_normal((_LATTICE, _LATTICE), dtype=np.float32) / _SPLINE_STD
    v = np.zeros((1, 1), np.float32) if v is None else v
    if u.shape[0] == 1 and v.shape[1] == 1:
        return _spline(table, u[0], v[:, 0])
    return _bilinear(_spline(table, _FINE, _FINE), u, v)


def _spline(table: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Quadratic B-spline over a periodic table, where columns ``u`` and rows ``v`` cross."""
    cell, (before, at, after) = _weights(u)
    rows = before * _periodic(table, cell - 1, 1)
    rows += at * _periodic(table, cell, 1)
    rows += after * _periodic(table, cell + 1, 1)
    cell, (before, at, after) = _weights(v)
    field = before[:, None] * _periodic(rows, cell - 1, 0)
    field += at[:, None] * _periodic(rows, cell, 0)
    field += after[:, None] * _periodic(rows, cell + 1, 0)
    return field


def _periodic(table: np.ndarray, cells: np.ndarray, axis: int) -> np.ndarray:
    return np.take(table, cells & (_LATTICE - 1), axis=axis)


def _weights(t: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    centre = np.floor(t + 0.5)
    offset = (t - centre).astype(np.float32)
    sides = 0.5 * np.square(0.5 - offset), 0.5 * np.square(0.5 + offset)
    return centre.astype(np.int64), (sides[0], 0.75 - np.square(offset), sides[1])


def _bilinear(fine: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # For few passes over memory, the table has one row and column more than a period (a power of
    # two, so that a bit mask wraps it): the four corners of a cell are then at fixed distances.
    length = fine.shape[0]
    wide = length + 1
    table = np.pad(fine, ((0, 1), (0, 1)), "wrap").ravel()
    u, v = u * _OVERSAMPLING, v * _OVERSAMPLING
    left, top = np.floor(u), np.floor(v)
    du, dv = u - left, v - top
    corner = (top.astype(np.int64) & (length - 1)) * wide + (left.astype(np.int64) & (length - 1))
    upper, lower = table[corner], table[wide:][corner]
    upper += (table[1:][corner] - upper) * du
    lower += (table[wide + 1 :][corner] - lower) * du
    upper += (lower - upper) * dv
    return upper


def ridges(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, width: float = 0.15
) -> np.ndarray:
    """A net of thin bright lines, the zero crossings of ``noise``: septa, fascia, ducts.

    The result is 1 on the lines and falls to 0; ``width`` is half their thickness, in standard
    deviations of the noise.
    """
    return np.exp(-np.square(noise(rng, u, v) / width))
