"""Native sizes of images, and the millimetres of a pixel."""

from collections.abc import Mapping

import numpy as np

from ufm_jax.data.screening import Decoded


def native_sizes(decoded: Decoded) -> np.ndarray:
    """Sizes of the upright images before scaling.

    Args:
      decoded: R records.

    Returns:
      int32 [R, 2] (height, width); zeros for an image that did not decode.
    """
    found: np.ndarray = np.where(
        decoded.rows[:, None] >= 0, decoded.cached.natives[decoded.rows], 0
    )
    return found


def spacing_mm(
    attributes: Mapping[str, str], native: tuple[int, int], key: str, size_columns: tuple[str, str]
) -> float:
    """Millimetres of a pixel of the file, nan where unknown.

    A spacing measured on the scanner's image does not hold for a copy at another size: it grows by
    what the copy shrank (the geometric mean of both axes, which differ by rounding only).

    Args:
      attributes: what the source says.
      native: (height, width) of the file.
      key: where the spacing stands.
      size_columns: where the (width, height) stand that it refers to.
    """
    spacing = _positive(attributes.get(key, ""))
    width, height = (_positive(attributes.get(column, "")) for column in size_columns)
    if np.isnan(width) or np.isnan(height):
        return spacing
    return float(spacing * np.sqrt(width / native[1] * height / native[0]))


def _positive(text: str) -> float:
    """A positive number, nan for anything else."""
    try:
        value = float(text)
    except ValueError:
        return float("nan")
    return value if 0 < value < float("inf") else float("nan")
