"""What a scanner burns into the picture: text, grey bar, ticks, callipers, logo, blank box."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

from ufm_jax.phantoms.layout import Layout

_SCREEN = 256
_WHITE = 225
BLANK = "blank"

# Three columns by five rows; a row is an octal digit.
_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./- "
_GLYPH_ROWS = (
    "2575565656344436555674647746443455355755722271115255655444475775565555255526564425573"
    "6565534216722225555755522557755525555222712477555726227612476121655711746163475771122"
    "757577571600002112440070000000"
)
_GLYPHS: Mapping[str, str] = MappingProxyType(
    {character: _GLYPH_ROWS[5 * i : 5 * i + 5] for i, character in enumerate(_CHARACTERS)}
)


@dataclass(frozen=True)
class Screen:
    """The drawing surface: the picture at 256 units along its longer side.

    Attributes:
        draw: Pillow's drawing context of the marks, black where nothing is marked.
        width, height: Sides in screen units.
        unit: Screen units per picture pixel.
        layout: The picture's layout.
        lines: Text the operator entered.
        target: (row, column, half height, half width) of what is measured, in screen units.
        rng: Source of randomness.
    """

    draw: ImageDraw.ImageDraw
    width: int
    height: int
    unit: float
    layout: Layout
    lines: tuple[str, ...]
    target: tuple[float, float, float, float]
    rng: np.random.Generator


def burn_in(
    image: np.ndarray,
    names: tuple[str, ...],
    layout: Layout,
    lines: tuple[str, ...],
    lesion: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Burns marks into a picture, uint8 [h, w].

    Args:
        image: The picture.
        names: Keys of ``MARKS``, or ``BLANK``: a corner blacked out, as for privacy.
        layout: The picture's layout.
        lines: Text for the mark 'text'.
        lesion: uint8 [h, w]; callipers measure it, or a random place if it is empty, so that they
            do not give the label away.
        rng: Source of randomness.
    """
    h, w = image.shape
    unit = _SCREEN / max(h, w)
    width, height = round(w * unit), round(h * unit)
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    target = _target(lesion, unit, rng)
    screen = Screen(draw, width, height, unit, layout, lines, target, rng)
    if BLANK in names:
        blank = round(0.82 * h), round(w * rng.uniform(0.68, 0.78))
        image = image.copy()
        image[blank[0] :, blank[1] :] = 0
    for name in names:
        if name != BLANK:
            MARKS[name](screen)
    return np.maximum(image, np.asarray(canvas.resize((w, h), Image.Resampling.BOX)))


def _target(
    lesion: np.ndarray, unit: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    h, w = lesion.shape
    rows, cols = np.flatnonzero(lesion.any(axis=1)), np.flatnonzero(lesion.any(axis=0))
    if rows.size:
        box = rows[0], rows[-1], cols[0], cols[-1]
    else:
        row, col = rng.uniform(0.35, 0.6) * h, rng.uniform(0.4, 0.6) * w
        half_h, half_w = rng.uniform(0.05, 0.15, 2) * min(h, w)
        box = row - half_h, row + half_h, col - half_w, col + half_w
    top, bottom, left, right = (float(edge) * unit for edge in box)
    return (top + bottom) / 2, (left + right) / 2, (bottom - top) / 2, (right - left) / 2


def _write(screen: Screen, row: float, col: float, text: str, dot: int = 2) -> None:
    for character in text:
        for i, digit in enumerate(_GLYPHS[character]):
            for j in range(3):
                if int(digit) >> (2 - j) & 1:
                    x, y = col + j * dot, row + i * dot
                    screen.draw.rectangle((x, y, x + dot - 1, y + dot - 1), _WHITE)
        col += 4 * dot


def _text(screen: Screen) -> None:
    for number, line in enumerate(screen.lines):
        _write(screen, 5 + 13 * number, 9, line)


def _side(screen: Screen) -> None:
    side = "RT" if screen.rng.random() < 0.5 else "LT"
    row = screen.rng.uniform(0.55, 0.85) * screen.height
    _write(screen, row, screen.rng.uniform(0.1, 0.25) * screen.width, side, 3)


def _grey_bar(screen: Screen) -> None:
    top, bottom = round(0.06 * screen.height), round(0.5 * screen.height)
    for row in range(top, bottom):
        grey = round(255 * (bottom - row) / (bottom - top))
        screen.draw.line((1, row, 5, row), grey)


def _logo(screen: Screen) -> None:
    right = screen.width - 6
    screen.draw.rectangle((right - 22, 6, right, 22), outline=_WHITE)
    screen.draw.ellipse((right - 18, 10, right - 10, 18), fill=150)
    screen.draw.line((right - 8, 10, right - 4, 18), _WHITE, 2)


def _ticks(screen: Screen) -> None:
    step = 10 * screen.layout.scale * screen.unit
    row, number = screen.layout.origin[0] * screen.unit, 0
    while row < screen.height:
        length = 7 if number % 5 == 0 else 3
        screen.draw.line((screen.width - 1 - length, row, screen.width - 1, row), _WHITE)
        row, number = row + step, number + 1


def _callipers(screen: Screen) -> None:
    row, col, half_h, half_w = screen.target
    tilt = screen.rng.uniform(-0.3, 0.3)
    for dy, dx in ((tilt * half_h, half_w), (half_h, -tilt * half_w)):
        for step in np.linspace(-1, 1, 13):
            screen.draw.point((col + step * dx, row + step * dy), 150)
        for end in (-1, 1):
            y, x = row + end * dy, col + end * dx
            screen.draw.line((x - 4, y, x + 4, y), 250, 2)
            screen.draw.line((x, y - 4, x, y + 4), 250, 2)


def _focus(screen: Screen) -> None:
    row = 0.45 * screen.height
    right = screen.width - 10
    screen.draw.polygon(((right, row - 4), (right, row + 4), (right - 6, row)), fill=_WHITE)


MARKS: Mapping[str, Callable[[Screen], None]] = MappingProxyType(
    {
        "text": _text,
        "side": _side,
        "grey_bar": _grey_bar,
        "logo": _logo,
        "ticks": _ticks,
        "callipers": _callipers,
        "focus": _focus,
    }
)
