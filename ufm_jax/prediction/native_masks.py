"""From predicted probabilities to masks at the size of the original files."""

import numpy as np
from PIL import Image
from scipy import ndimage


def native_mask(
    probabilities: np.ndarray, size: tuple[int, int], least_component: int = 0
) -> np.ndarray:
    """The most probable class of each pixel of the original image.

    Probabilities, and not classes, are resized (bilinear, half-pixel centres), so that outlines
    fall between pixels of the small square.

    Args:
        probabilities: float32 [P, P, 1 + C], background first, for the whole picture.
        size: (height, width) of the original.
        least_component: Regions of a class, connected by edges, with fewer pixels than this become
            background.

    Returns:
        uint8 [height, width] class numbers.
    """
    height, width = size
    planes = np.moveaxis(np.asarray(probabilities, np.float32), -1, 0)
    resized = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
        for plane in planes
    ]
    mask = np.argmax(resized, axis=0).astype(np.uint8)
    return remove_small(mask, least_component) if least_component > 1 else mask


def remove_small(mask: np.ndarray, least: int) -> np.ndarray:
    """Class numbers [H, W] without the connected regions of fewer than ``least`` pixels."""
    kept = mask.copy()
    for number in np.unique(mask[mask > 0]):
        regions, _ = ndimage.label(mask == number)
        small = np.bincount(regions.ravel()) < least
        small[0] = False
        kept[small[regions]] = 0
    return kept
