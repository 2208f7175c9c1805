"""Arrays to pictures: PNG data URIs, the texture heat map, patches cut out."""

import base64
import io

import numpy as np
from PIL import Image

from ufm_jax.report.markup import Markup, element

# Dark violet over magenta and orange to pale yellow; lightness increases steadily, so the map also
# reads in grey print. Interpolated linearly between these anchors.
_HEAT = np.array(
    [
        (13, 8, 35),
        (58, 15, 99),
        (114, 31, 129),
        (171, 51, 124),
        (222, 73, 104),
        (247, 112, 92),
        (254, 159, 109),
        (254, 206, 145),
        (252, 253, 191),
    ],
    np.float64,
)


def data_uri(image: np.ndarray, longest: int) -> str:
    """Encodes a uint8 [H, W] or [H, W, 3] image as a PNG inside a ``data:`` address.

    Args:
        image: The picture; never enlarged.
        longest: Upper bound on the longer side, in pixels.
    """
    picture = Image.fromarray(image)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def picture(image: np.ndarray, alt: str, longest: int) -> Markup:
    """An ``img`` element; see ``data_uri``."""
    return element("img", src=data_uri(image, longest), alt=alt)


def heat_colours(fraction: np.ndarray) -> np.ndarray:
    """Colours of values 0..1 (clipped): uint8 [..., 3] for input [...]."""
    place = np.clip(np.nan_to_num(fraction), 0, 1) * (len(_HEAT) - 1)
    channels = [np.interp(place, np.arange(len(_HEAT)), _HEAT[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def heat_map(image: np.ndarray, score: np.ndarray, top: float) -> np.ndarray:
    """Lays the patches' scores over an image.

    Args:
        image: uint8 [H, W] or [H, W, 3].
        score: [gh, gw], one value a patch.
        top: The score that gets the last colour; the first colour is 0.

    Returns:
        uint8 [H, W, 3], three quarters colour and one quarter image.
    """
    grey = image if image.ndim == 2 else image.mean(axis=-1)
    colours = heat_colours(enlarge(score, grey.shape) / top)
    return (0.75 * colours + 0.25 * grey[..., None]).round().astype(np.uint8)


def kept_patches(image: np.ndarray, mask: np.ndarray, blank: int = 225) -> np.ndarray:
    """Blanks the hidden patches.

    Args:
        image: uint8 [H, W] or [H, W, 3].
        mask: [gh, gw], 1 = hidden.
        blank: Grey value of hidden patches.
    """
    hidden = enlarge(mask, image.shape[:2]) > 0
    return np.where(hidden.reshape(hidden.shape + (1,) * (image.ndim - 2)), np.uint8(blank), image)


def enlarge(grid: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Repeats each patch's value over its pixels: [gh, gw] -> [H, W]."""
    rows = np.arange(size[0]) * grid.shape[0] // size[0]
    columns = np.arange(size[1]) * grid.shape[1] // size[1]
    return grid[np.ix_(rows, columns)]


def hidden_by_texture(score: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """How often the least and the most textured quarter of each image's patches are hidden.

    Args:
        score: [n, gh, gw].
        mask: [n, gh, gw], 1 = hidden.

    Returns:
        (share hidden of the least textured quarter, of the most textured), 0..1, over all images.
    """
    flat_score, flat_mask = score.reshape(len(score), -1), mask.reshape(len(mask), -1)
    order = np.argsort(flat_score, axis=1, kind="stable")
    ranked = np.take_along_axis(flat_mask, order, axis=1)
    quarter = max(1, ranked.shape[1] // 4)
    return float(ranked[:, :quarter].mean()), float(ranked[:, -quarter:].mean())
