"""Moving a picture and its mask together: crop, turn, scale, mirror.

A ``Move`` is drawn once, and applied to the picture, to the mask, or to both. The picture is
interpolated. The mask takes the class of the nearest pixel, so that no new class appears. Pixels
from outside the picture are black, and ``IGNORED`` in the mask.
"""

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from ufm_jax.ops.crop import crop, random_box
from ufm_jax.ops.segmentation_losses import IGNORED
from ufm_jax.ranges import Checked, Factors, Parts, Range, Share


@dataclass(frozen=True)
class Moves(Checked):
    """What may happen to a picture and its mask.

    Attributes:
        area: Least and largest area of the cropped box, as shares of the valid area.
        ratio: Least and largest width of the box over its height, as factors on the picture's own:
            a box becomes a square, as whole pictures do where the model is tested, and so the
            tested shape is in the middle of those trained on.
        degrees: Largest angle, either way, by which the picture is turned about the box's centre.
        zoom: Least and largest factor of enlargement, which is drawn log-uniformly.
        mirror: Probability of exchanging left and right.
        upend: Probability of exchanging top and bottom. In a B-mode scan shadows and depth then
            point the wrong way, so that this is for other pictures.
        quarter_turns: Whether to turn by 0, 90, 180 or 270 degrees, equally likely; see ``upend``.

    Raises:
        ValueError: If a number is impossible.
    """

    area: Parts = (0.6, 1.0)
    ratio: Factors = (3 / 4, 4 / 3)
    degrees: Annotated[float, Range(0, 180)] = 10.0
    zoom: Factors = (0.9, 1.1)
    mirror: Share = 0.5
    upend: Share = 0.0
    quarter_turns: bool = False

    @property
    def bends(self) -> bool:
        """Whether pixels leave their grid, so that a move interpolates them once more."""
        return self.degrees > 0 or self.zoom != (1, 1)


class Move(NamedTuple):
    """One drawn movement.

    Attributes:
        box: int32 [4] (top, left, height, width), inside the valid part.
        back: float32 [2, 2] maps (row, column) about the box's centre from the result to the
            source.
        mirror: bool [].
        upend: bool [].
        turns: int32 [], quarter turns anticlockwise.
    """

    box: jax.Array
    back: jax.Array
    mirror: jax.Array
    upend: jax.Array
    turns: jax.Array


def draw_move(key: jax.Array, extent: jax.Array, moves: Moves) -> Move:
    """The movement of one picture and its mask.

    Args:
        key: Random key.
        extent: [2] height and width of the valid part, in the top-left corner; 1 or more.
        moves: What may happen.
    """
    box_key, key = jax.random.split(key)
    angle, zoom, mirror, upend, turns = jax.random.uniform(key, (5,))
    radians = math.radians(moves.degrees) * (2 * angle - 1)
    low, high = (math.log(factor) for factor in moves.zoom)
    shrink = jnp.exp(-(low + (high - low) * zoom))
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    height, width = jnp.maximum(extent, 1)
    return Move(
        random_box(box_key, extent, moves.area, moves.ratio, width / height),
        shrink * jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])]),
        mirror < moves.mirror,
        upend < moves.upend,
        jnp.where(moves.quarter_turns, jnp.floor(4 * turns), 0).astype(jnp.int32),
    )


def move_image(
    image: jax.Array, extent: jax.Array, move: Move, moves: Moves, size: int
) -> jax.Array:
    """A moved picture.

    Args:
        image: [H, W, C] in 0..255.
        extent: [2] height and width of the valid part.
        move: From ``draw_move`` with the same ``moves``.
        moves: What may happen; anything else is left out of the program.
        size: Side of the result in pixels.

    Returns:
        float32 [size, size, C] in 0..255.
    """
    image = image.astype(jnp.float32)
    if moves.bends:
        rows, columns = (jnp.arange(side) for side in image.shape[:2])
        places = _places(rows, columns, move)
        inside = (rows[:, None] < extent[0]) & (columns[None, :] < extent[1])
        valid = jnp.where(inside[..., None], image, 0.0)

        def sample(plane: jax.Array) -> jax.Array:
            return map_coordinates(plane, places, order=1, mode="constant", cval=0.0)

        image = jax.vmap(sample, in_axes=-1, out_axes=-1)(valid)
    return _reflect(crop(image, move.box, size), move, moves)


def move_mask(mask: jax.Array, extent: jax.Array, move: Move, moves: Moves, size: int) -> jax.Array:
    """A mask [H, W], moved as ``move_image`` moves its picture.

    Returns:
        [size, size] in the mask's type: values of the mask, and ``IGNORED``.
    """
    if not moves.bends:
        return _reflect(crop_mask(mask, move.box, size), move, moves)
    # Turned and cropped at once: two steps to the nearest pixel could lead a whole pixel away.
    top, left, height, width = move.box
    centres = (jnp.arange(size) + 0.5) / size
    places = _places(top + centres * height - 0.5, left + centres * width - 0.5, move)
    rows, columns = (jnp.round(place).astype(jnp.int32) for place in places)
    inside = (rows >= 0) & (rows < extent[0]) & (columns >= 0) & (columns < extent[1])
    nearest = mask[jnp.where(inside, rows, 0), jnp.where(inside, columns, 0)]
    return _reflect(jnp.where(inside, nearest, jnp.asarray(IGNORED, mask.dtype)), move, moves)


def move_jointly(
    key: jax.Array,
    image: jax.Array,
    mask: jax.Array,
    extent: jax.Array,
    moves: Moves,
    size: int,
) -> tuple[jax.Array, jax.Array]:
    """A picture [H, W, C] and its mask [H, W], moved by the same draw.

    Returns:
        float32 [size, size, C] in 0..255, and [size, size] in the mask's type.

    Raises:
        ValueError: If picture and mask differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image {image.shape} and mask {mask.shape} differ in height or width")
    move = draw_move(key, extent, moves)
    moved = move_image(image, extent, move, moves, size)
    return moved, move_mask(mask, extent, move, moves, size)


def crop_mask(mask: jax.Array, box: jax.Array, size: int) -> jax.Array:
    """A box of a mask at a fixed size, by the pixel nearest to each pixel's centre.

    Args:
        mask: [H, W].
        box: [4] (top, left, height, width) in pixels, inside the mask; sides of 1 or more.
        size: Side of the result in pixels.

    Returns:
        [size, size] in the mask's type.

    Raises:
        ValueError: If the mask is not [H, W], or the size is not positive.
    """
    if mask.ndim != 2:
        raise ValueError(f"crop_mask takes one mask [H, W], got shape {mask.shape}")
    if size < 1:
        raise ValueError(f"size={size} of a crop: use 1 pixel or more")
    top, left, height, width = box
    # In whole numbers: floor((i + 1/2) length / size), exact on every device.
    twice = 2 * jnp.arange(size) + 1
    rows = top + twice * height // (2 * size)
    columns = left + twice * width // (2 * size)
    return mask[rows][:, columns]


def _places(rows: jax.Array, columns: jax.Array, move: Move) -> tuple[jax.Array, jax.Array]:
    """Rows and columns in the source of a grid of rows [R] and columns [C], float32 [R, C] each."""
    top, left, height, width = move.box.astype(jnp.float32)
    middle = top + (height - 1) / 2, left + (width - 1) / 2
    down, right = (rows - middle[0])[:, None], (columns - middle[1])[None, :]
    (a, b), (c, d) = move.back
    return middle[0] + a * down + b * right, middle[1] + c * down + d * right


def _reflect(pixels: jax.Array, move: Move, moves: Moves) -> jax.Array:
    """Mirrors, upends and turns a square [S, S, ...] by quarters."""
    if moves.mirror:
        pixels = jnp.where(move.mirror, pixels[:, ::-1], pixels)
    if moves.upend:
        pixels = jnp.where(move.upend, pixels[::-1], pixels)
    if moves.quarter_turns:
        pixels = jnp.where(move.turns & 1, jnp.rot90(pixels), pixels)
        pixels = jnp.where(move.turns & 2, pixels[::-1, ::-1], pixels)
    return pixels
