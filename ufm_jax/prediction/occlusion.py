"""Where a diagnosis looks: how its probability falls as parts of the picture are hidden.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2.
The map depends on the model's outputs alone, not on its architecture; its unit is a probability.
"""

import numpy as np

from ufm_jax.fed.algorithm import Params
from ufm_jax.prediction.predictor import Predictor

_SHARE = 5
"""The picture's longer side is this many times the window's side."""
_PLACES = 14
"""The number of places of the window along the longer side."""


def occlusion_map(
    predictor: Predictor, params: Params, image: np.ndarray, extent: np.ndarray, number: int
) -> np.ndarray:
    """The contribution of each place to the probability of a class.

    A square of the picture's mean grey is moved over the picture. A place's value is the mean, over
    the windows that cover it, of the probability without the window minus that with it.

    Args:
        predictor: Runs a network for diagnosis.
        params: The model's parameters.
        image: uint8 [S, S, C], a stored picture.
        extent: [2], its height and width.
        number: The class.

    Returns:
        float32 [height, width]; above 0 where the place raises the probability of the class.
    """
    height, width = (int(side) for side in extent)
    side = max(1, max(height, width) // _SHARE)
    step = max(1, max(height, width) // _PLACES)
    corners = [
        (top, left)
        for top in range(-side // 2, height, step)
        for left in range(-side // 2, width, step)
    ]
    windows = np.zeros((len(corners), height, width), bool)
    for window, (top, left) in zip(windows, corners, strict=True):
        window[max(top, 0) : top + side, max(left, 0) : left + side] = True
    windows = windows[windows.any((1, 2))]
    grey = image[:height, :width].mean((0, 1)).astype(np.uint8)
    hidden = np.repeat(image[None], 1 + len(windows), axis=0)
    hidden[1:, :height, :width][windows] = grey
    found = _predict_all(predictor, params, hidden, np.asarray(extent))[:, number]
    fall = found[0] - found[1:]
    covered = windows.sum(0)
    return ((windows * fall[:, None, None]).sum(0) / np.maximum(covered, 1)).astype(np.float32)


def _predict_all(
    predictor: Predictor, params: Params, images: np.ndarray, extent: np.ndarray
) -> np.ndarray:
    """Predictions [n, ...] of any number of pictures [n, S, S, C] of one extent."""
    parts = [
        predictor(params, {"image": part, "extent": np.repeat(extent[None], len(part), axis=0)})
        for part in np.split(images, range(predictor.batch_size, len(images), predictor.batch_size))
    ]
    return np.concatenate(parts)
