"""Fits a fan to the scan area of an ultrasound picture.

A fan is convex but for its top arc, so that each straight side is a supporting line of the scan
area: most of the outline touches it and hardly anything lies beyond. Dark tissue moves the outline
inward, boxes and the picture's border hide a part of it; neither moves the line that most of the
rest touches. Seen from the apex, the arcs are supporting values of the radius in the same sense.

Two sides meet in the apex. Where one side is dark, the other and the arcs tell: a fan is upright,
so the apex is that point of the side's line from which the arcs look round.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ufm_jax.data.geometry.scan_area import Sector

_LEAST_TOLERANCE = 1.5
_TOLERANCE = 0.008
"""Raggedness of an outline: pixels, and a share of the picture's longer side."""
_BEYOND_COST = 2
"""Points that must touch a bound for each point beyond it."""
_BORDER = 1
_LEAST_POINTS = 12

_ANGLES = np.deg2rad(np.arange(-65.0, 1.0))
_NARROWEST_DEGREES = 9.0
_LARGEST_TILT_DEGREES = 8.0

_APEXES = 32
_HIGHEST_APEX, _LOWEST_APEX = -2.0, 0.3
"""Where to look for the apex with one side only, in heights of the picture."""
_LEAST_ARC = 0.4
"""Columns whose first or last echo lies on an arc, per column of the picture."""
_LARGEST_RIVAL = 0.5

_LEAST_FILLED = 0.25
_MOST_STRAY = 0.02
_LEAST_SIDE = 0.3
_LEAST_OUTLINED_BY_SIDES, _LEAST_OUTLINED_BY_ARCS = 1 / 3, 0.5
"""Shares of a side, and of a whole outline, that are seen. Two sides that agree need less."""
_LEAST_LENGTH = 0.3
_BEYOND_DOUBT = 0.9


Points = tuple[np.ndarray, np.ndarray]
"""int [P] rows, and int [P] columns or insets."""


@dataclass(frozen=True)
class _Side:
    """A straight side: inset = foot + row * tan(angle); the angle of a fan's side is negative.

    Insets count from the picture's border on that side, so that right sides look like left ones.
    """

    angle: float
    foot: float


@dataclass(frozen=True)
class _Outline:
    """Points on the outline of a scan area in a picture of ``height`` x ``width`` pixels.

    Attributes:
        left: (rows, insets) of the first pixel of each row, unless at the picture's border.
        right: (rows, insets) of the last pixel of each row, likewise.
        top: (rows, columns) of the first pixel of each column.
        bottom: (rows, columns) of the last pixel of each column.
    """

    left: Points
    right: Points
    top: Points
    bottom: Points
    height: int
    width: int


def fit_fan(area: np.ndarray) -> Sector | None:
    """The fan that explains a scan area, bool [h, w]; None if no fan does.

    A probe could make it, it holds the area, and the area fills it. Among several such fans it is
    the one whose outline is best seen in the area; too little of an outline does not count.
    """
    tolerance = max(_LEAST_TOLERANCE, _TOLERANCE * max(area.shape))
    near = ndimage.binary_dilation(area, iterations=round(tolerance))
    outline = _trace(area)
    best, best_share = None, 0.0
    for blind, both_sides in _candidates(outline, tolerance):
        fan = _fit_radii(blind, outline, tolerance)
        if fan is not None and _holds(fan, area, tolerance):
            share, weaker_side = _evidence(fan, near)
            if both_sides:
                seen = weaker_side >= _LEAST_SIDE and share >= _LEAST_OUTLINED_BY_SIDES
            else:
                seen = share >= _LEAST_OUTLINED_BY_ARCS
            if seen and share > best_share:
                best, best_share = fan, share
        if best_share > _BEYOND_DOUBT:
            break
    return best


def _trace(area: np.ndarray) -> _Outline:
    """The outline of an area."""
    rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    sides = []
    for view in (area, area[:, ::-1]):
        insets = view[rows].argmax(axis=1)
        free = insets > _BORDER
        sides.append((rows[free], insets[free]))
    top = area[:, columns].argmax(axis=0)
    bottom = len(area) - 1 - area[::-1, columns].argmax(axis=0)
    return _Outline(sides[0], sides[1], (top, columns), (bottom, columns), *area.shape)


def _candidates(outline: _Outline, tolerance: float) -> Iterator[tuple[Sector, bool]]:
    """Fans of unknown radii, from two sides (True), or from one side and the arcs (False)."""
    points = (outline.left, outline.right)
    if max(rows.size for rows, _ in points) < _LEAST_POINTS:
        return
    scores, bounds = zip(*(_touch(_offsets(p), tolerance) for p in points), strict=True)
    alike, apart = int(np.argmax(scores[0] + scores[1])), [int(np.argmax(s)) for s in scores]
    for chosen in dict.fromkeys([(alike, alike), tuple(apart)]):
        guesses = zip(points, bounds, chosen, strict=True)
        left, right = (_refine(p, _ANGLES[i], bound[i], tolerance) for p, bound, i in guesses)
        if left and right:
            yield _between(left, right, outline.width), True
    for side, (p, bound, i) in enumerate(zip(points, bounds, apart, strict=True)):
        line = _refine(p, _ANGLES[i], bound[i], tolerance)
        # A fan goes on behind a dark side, not behind one that is as straight as the first.
        rival = scores[1 - side].max() / max(points[1 - side][0].size, _LEAST_POINTS)
        if line and rival < _LARGEST_RIVAL:
            fan = _from_side(line, outline, tolerance, mirrored=side == 1)
            if fan:
                yield fan, False


def _offsets(points: Points) -> np.ndarray:
    """Distances of points from the lines of each angle through the corner: [angles, P]."""
    rows, insets = points
    return np.cos(_ANGLES)[:, None] * insets - np.sin(_ANGLES)[:, None] * rows


def _touch(values: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Finds the lower bound that many values touch and few lie below.

    Args:
        values: [A, P] in pixels; infinite ones do not count.
        tolerance: Values up to this much above the bound touch it.

    Returns:
        [A] the best score, values that touch less a multiple of those below; and [A] its bound, to
        half of the tolerance.
    """
    counted = np.isfinite(values)
    if not counted.any():
        return np.zeros(len(values)), np.zeros(len(values))
    step, low = tolerance / 2, values[counted].min()
    bins = np.floor((np.where(counted, values, low) - low) / step).astype(int)
    width = int(bins.max()) + 2
    bins += width * np.arange(len(values))[:, None]
    counts = np.bincount(bins[counted], minlength=len(values) * width).reshape(-1, width)
    score = counts - _BEYOND_COST * (np.cumsum(counts, axis=1) - counts)
    score[:, :-1] += counts[:, 1:]
    best = score.argmax(axis=1)
    return np.take_along_axis(score, best[:, None], axis=1)[:, 0], low + step * best


def _refine(points: Points, angle: float, bound: float, tolerance: float) -> _Side | None:
    """The line of least squares through the points that touch a first guess; None if few do."""
    rows, insets = points
    slope, foot = np.tan(angle), (bound + tolerance / 2) / np.cos(angle)
    for _ in range(3):
        off = (insets - foot - slope * rows) / np.hypot(1, slope)
        near = np.abs(off) <= tolerance
        if near.sum() < _LEAST_POINTS or np.ptp(rows[near]) < _LEAST_POINTS:
            return None
        slope, foot = np.polyfit(rows[near], insets[near], 1)
    return _Side(float(np.arctan(slope)), float(foot)) if slope < 0 else None


def _between(left: _Side, right: _Side, width: int) -> Sector:
    """The fan between two sides, of unknown radii."""
    slopes = np.tan(left.angle) + np.tan(right.angle)
    apex_row = (width - 1 - right.foot - left.foot) / slopes
    apex_column = left.foot + apex_row * np.tan(left.angle)
    return Sector(float(apex_row), float(apex_column), 0.0, np.inf, left.angle, -right.angle)


def _from_side(side: _Side, outline: _Outline, tolerance: float, mirrored: bool) -> Sector | None:
    """The upright fan with this side from whose apex the arcs look round; None if they do not."""
    angle = abs(side.angle)
    rows = outline.height * np.linspace(_HIGHEST_APEX, _LOWEST_APEX, _APEXES)
    for _ in range(2):
        columns = side.foot + rows * np.tan(side.angle)
        columns = outline.width - 1 - columns if mirrored else columns
        score = np.zeros(_APEXES)
        for (y, x), sign in ((outline.top, 1), (outline.bottom, -1)):
            free = (y > _BORDER) & (y < outline.height - 1 - _BORDER)
            down, right = y[free] - rows[:, None], x[free] - columns[:, None]
            r = np.where(np.abs(right) <= down * np.tan(angle), np.hypot(down, right), np.inf)
            score += _touch(np.where(np.isfinite(r), sign * r, np.inf), tolerance)[0]
        best = int(score.argmax())
        step = rows[1] - rows[0]
        found = float(rows[best]), float(columns[best])
        rows = np.linspace(rows[best] - step, rows[best] + step, _APEXES)
    if score[best] < _LEAST_ARC * outline.width:
        return None
    return Sector(*found, 0.0, np.inf, -angle, angle)


def _fit_radii(fan: Sector, outline: _Outline, tolerance: float) -> Sector | None:
    """Puts arcs before the first and behind the last echoes; None if no probe makes such a fan."""
    narrowest = min(-fan.theta_min, fan.theta_max)
    if narrowest < np.deg2rad(_NARROWEST_DEGREES):
        return None
    if abs(fan.theta_min + fan.theta_max) > np.deg2rad(_LARGEST_TILT_DEGREES):
        return None
    radii = []
    for points, sign in ((outline.top, 1), (outline.bottom, -1)):
        r, theta = fan.polar(*points)
        inside = (theta >= fan.theta_min) & (theta <= fan.theta_max)
        if not inside.any():
            return None
        bound = _touch(sign * r[None, inside], tolerance)[1][0]
        touching = r[inside & (sign * r >= bound) & (sign * r < bound + tolerance)]
        radii.append(float(touching.mean()))
    return replace(fan, r_min=radii[0], r_max=radii[1]) if radii[0] < radii[1] else None


def _holds(fan: Sector, area: np.ndarray, tolerance: float) -> bool:
    """Whether hardly any of an area lies outside a fan, and much of the fan is filled."""
    every_other = area[::2, ::2]
    rows, columns = np.ogrid[: area.shape[0] : 2, : area.shape[1] : 2]
    beyond = fan.beyond(rows, columns)
    inside = every_other[beyond <= 0]
    stray = every_other[beyond > tolerance].sum() / max(every_other.sum(), 1)
    return bool(inside.size and inside.mean() >= _LEAST_FILLED and stray <= _MOST_STRAY)


def _evidence(fan: Sector, near: np.ndarray) -> tuple[float, float]:
    """How much of a fan's outline within the picture lies on the area's outline.

    Args:
        fan: A fan that holds the area, so that the area's outline is where the area comes near.
        near: bool [h, w], the area and a margin around it.

    Returns:
        The share of the whole outline, and that of the straight side where it is smaller.
    """
    steps = np.linspace(0, 1, max(near.shape))
    theta = fan.theta_min + steps * (fan.theta_max - fan.theta_min)
    r = fan.r_min + steps * (fan.r_max - fan.r_min)
    radii = np.stack([r, r, np.full_like(r, fan.r_min), np.full_like(r, fan.r_max)])
    angles = np.stack(
        [np.full_like(r, fan.theta_min), np.full_like(r, fan.theta_max)] + [theta] * 2
    )
    y = np.rint(fan.apex_row + radii * np.cos(angles)).astype(int)
    x = np.rint(fan.apex_column + radii * np.sin(angles)).astype(int)
    height, width = near.shape
    shown = (np.minimum(y, x) > _BORDER) & (y < height - 1 - _BORDER) & (x < width - 1 - _BORDER)
    seen = shown & near[np.where(shown, y, 0), np.where(shown, x, 0)]
    opening = fan.theta_max - fan.theta_min
    depth = fan.r_max - fan.r_min
    per_point = np.array([depth, depth, opening * fan.r_min, opening * fan.r_max])[:, None]
    length = float((seen * per_point).sum()) / r.size
    if length < _LEAST_LENGTH * min(near.shape):
        return 0.0, 0.0
    whole = length * r.size / float((shown * per_point).sum())
    sides = seen[:2].sum(axis=1) / np.maximum(shown[:2].sum(axis=1), 1)
    return whole, float(sides.min())
