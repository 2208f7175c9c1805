"""Ellipses: direct least squares fit, circumference, long axis and tangents.

Points are (row, column) in any unit of length.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

_POINTS = 6
"""Points that a fit needs: an ellipse has five parameters."""


@dataclass(frozen=True)
class Ellipse:
    """An ellipse.

    Attributes:
        centre: (row, column).
        semi_major: Half the long axis.
        semi_minor: Half the short axis.
        direction: Unit vector (row, column) along the long axis, column >= 0.
    """

    centre: tuple[float, float]
    semi_major: float
    semi_minor: float
    direction: tuple[float, float]

    @property
    def circumference(self) -> float:
        """4 a E(e^2), the complete elliptic integral of the second kind; exact."""
        squared = 1 - (self.semi_minor / self.semi_major) ** 2
        return float(4 * self.semi_major * special.ellipe(squared))

    def long_axis(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the long axis, float64 [2] each; the first is the left one (lower column)."""
        half = self.semi_major * np.array(self.direction)
        return np.array(self.centre) - half, np.array(self.centre) + half

    def tangent_points(self, point: np.ndarray) -> np.ndarray:
        """Points in which the two tangents from a point outside touch, float64 [2, 2].

        In coordinates in which the ellipse is the unit circle, tangents from a point at distance d
        touch at the angles +-arccos(1/d) from its direction; affine maps keep tangents.

        Raises:
            ValueError: If the point lies in the ellipse.
        """
        axes = self.half_axes()
        row, column = np.linalg.solve(axes, np.asarray(point) - self.centre)
        distance = np.hypot(row, column)
        if distance <= 1:
            raise ValueError("the point lies in the ellipse, from where it has no tangent")
        turn = np.arccos(1 / distance)
        angles = np.arctan2(column, row) + np.array([-turn, turn])
        return np.array(self.centre) + np.stack([np.cos(angles), np.sin(angles)], axis=1) @ axes.T

    def half_axes(self) -> np.ndarray:
        """The half axes as columns, [2, 2], a map from the unit circle to the centred ellipse."""
        row, column = self.direction
        return np.array([[row, -column], [column, row]]) * (self.semi_major, self.semi_minor)


def fit_ellipse(points: np.ndarray) -> Ellipse:
    """The ellipse of least squared algebraic distance to points.

    Fitzgibbon, Pilu and Fisher, PAMI 21:476 (1999), in the numerically stable form of Halir and
    Flusser (WSCG 1998), on centred and scaled points.

    Args:
        points: float [n, 2], n >= 6.

    Raises:
        ValueError: If there are fewer points, or they lie on a line.
    """
    points = np.asarray(points, np.float64)
    if len(points) < _POINTS:
        raise ValueError(f"{len(points)} outline points: an ellipse needs {_POINTS}")
    mean, scale = points.mean(0), float(points.std())
    if scale == 0 or np.linalg.matrix_rank(points - mean, tol=1e-9 * scale) < 2:
        raise ValueError("the outline points lie on a line: no ellipse fits them")
    y, x = ((points - mean) / scale).T
    quadratic = np.stack([y * y, y * x, x * x], axis=1)
    linear = np.stack([y, x, np.ones_like(x)], axis=1)
    to_linear = -np.linalg.solve(linear.T @ linear, linear.T @ quadratic)
    scatter = quadratic.T @ quadratic + quadratic.T @ linear @ to_linear
    # The constraint 4ac - b^2 = 1 makes the conic an ellipse.
    constraint = np.array([[0, 0, 0.5], [0, -1, 0], [0.5, 0, 0]])
    vectors = np.linalg.eig(constraint @ scatter)[1].real
    excess = 4 * vectors[0] * vectors[2] - vectors[1] ** 2
    chosen = vectors[:, int(np.argmax(excess))]
    if excess.max() <= 0:
        raise ValueError("the outline points fit no ellipse")
    return _from_conic(chosen, to_linear @ chosen, mean, scale)


def _from_conic(
    quadratic: np.ndarray, linear: np.ndarray, mean: np.ndarray, scale: float
) -> Ellipse:
    """The ellipse a y^2 + b yx + c x^2 + d y + e x + f = 0 in points (p - mean) / scale."""
    a, b, c = quadratic
    form = np.array([[a, b / 2], [b / 2, c]])
    centre = np.linalg.solve(form, -linear[:2] / 2)
    level = -(linear[2] + linear[:2] @ centre / 2)
    values, vectors = np.linalg.eigh(form)
    squared = level / values
    if not (np.isfinite(squared) & (squared > 0)).all():
        raise ValueError("the outline points fit no ellipse")
    lengths = scale * np.sqrt(squared)
    longest = int(np.argmax(lengths))
    direction = vectors[:, longest] * (1 if vectors[1, longest] >= 0 else -1)
    row, column = (mean + scale * centre).tolist()
    return Ellipse(
        centre=(row, column),
        semi_major=float(lengths[longest]),
        semi_minor=float(lengths[1 - longest]),
        direction=(float(direction[0]), float(direction[1])),
    )
