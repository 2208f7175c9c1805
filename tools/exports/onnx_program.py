"""A trained model as ONNX: the same function as ``prediction.program``, for pictures of any size.

jax2onnx converts the network, whose pictures have one size. What depends on the size of a picture
is written here in ONNX's own operators, which leave sizes open: onto the canvas beforehand, and
masks back to the size of the picture.
"""

import logging
from types import SimpleNamespace

import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.data.optional import needed_packages
from ufm_jax.objectives.task import make_objective
from ufm_jax.ops.pixels import LUMA
from ufm_jax.runs.trained_model import TrainedModel

OPSET = 23
_CUBIC = 'mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1, antialias=1'
_PREPARE = """
<ir_version: 11, opset_import: ["" : {opset}]>
prepare (uint8[b, h, w, 3] pictures)
    => (float[b, {side}, {side}, {channels}] image, int32[b, 2] extent, int64[2] sides)
<float[3, 1] luma = {{{red}, {green}, {blue}}}, float black = {{0}}, float white = {{255}},
 double one = {{1}}, double size = {{{side}}}, int64[2] square = {{{side}, {side}}},
 int64[1] colours = {{{channels}}}, int64[1] two = {{2}}, int64[6] none = {{0, 0, 0, 0, 0, 0}}>
{{
    levels = Cast<to=1>(pictures)
    {to_grey}
    shape = Shape(pictures)
    number, height, width, third = Split<num_outputs=4>(shape)
    sides = Concat<axis=0>(height, width)
    lengths = Cast<to=11>(sides)
    longer = ReduceMax<keepdims=0>(lengths)
    scaled = Mul(lengths, size)
    quotient = Div(scaled, longer)
    nearest = Round(quotient)
    positive = Max(nearest, one)
    fitted = Cast<to=7>(positive)
    down, across = Split<num_outputs=2>(fitted)
    planes = Transpose<perm=[0, 3, 1, 2]>(pixels)
    wide = Concat<axis=0>(number, colours, height, across)
    widened = Resize<{cubic}>(planes, , , wide)
    rounded = Round(widened)
    levelled = Clip(rounded, black, white)
    tall = Concat<axis=0>(number, colours, fitted)
    heightened = Resize<{cubic}>(levelled, , , tall)
    rounded_again = Round(heightened)
    levelled_again = Clip(rounded_again, black, white)
    rest = Sub(square, fitted)
    pads = Concat<axis=0>(none, rest)
    canvas = Pad(levelled_again, pads)
    image = Transpose<perm=[0, 2, 3, 1]>(canvas)
    pair = Cast<to=6>(fitted)
    pairs = Concat<axis=0>(number, two)
    extent = Expand(pair, pairs)
}}
"""
_TO_MASK = """
<ir_version: 11, opset_import: ["" : {opset}]>
to_mask (float[b, p, p, k] probabilities, int64[2] mask_sides) => (uint8[b, h, w] mask)
{{
    planes = Transpose<perm=[0, 3, 1, 2]>(probabilities)
    shape = Shape(probabilities)
    number, rows, columns, classes = Split<num_outputs=4>(shape)
    full = Concat<axis=0>(number, classes, mask_sides)
    resized = Resize<mode="linear", antialias=1>(planes, , , full)
    best = ArgMax<axis=1, keepdims=0>(resized)
    mask = Cast<to=2>(best)
}}
"""


def make_onnx(config: FinetuneConfig, model: TrainedModel) -> bytes:
    """The ONNX model; inputs and outputs are those of ``prediction.program.make_program``.

    Raises:
        DataError: If jax2onnx or onnx is not installed.
    """
    with needed_packages():
        import jax2onnx
        from onnx import compose, parser
    # It says of every constant that its type was left open, which none was.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    segments, side = model.task.kind == "segment", config.data.working_size
    channels = 1 if config.data.channels == 1 else 3
    predict = make_objective(config, model.task).predict
    inputs = {
        "image": SimpleNamespace(shape=("b", side, side, channels), dtype=np.float32),
        "extent": SimpleNamespace(shape=("b", 2), dtype=np.int32),
    }
    network = jax2onnx.to_onnx(
        lambda image, extent: predict(model.params, {"image": image, "extent": extent}),
        inputs=list(inputs.values()),
        input_names=list(inputs),
        output_names=["probabilities"],
        opset=OPSET,
    )
    prepare = parser.parse_model(_prepare_text(side, channels))
    network.ir_version = prepare.ir_version
    whole = compose.merge_models(
        compose.add_prefix(prepare, "prepare/", rename_inputs=False),
        compose.add_prefix(network, "network/", rename_outputs=False),
        [(f"prepare/{name}", f"network/{name}") for name in inputs],
        outputs=[*["prepare/sides"][:segments], "probabilities"],
    )
    if segments:
        to_mask = parser.parse_model(_TO_MASK.format(opset=OPSET))
        whole = compose.merge_models(
            whole,
            compose.add_prefix(to_mask, "mask/", rename_outputs=False),
            [("probabilities", "mask/probabilities"), ("prepare/sides", "mask/mask_sides")],
        )
    return bytes(whole.SerializeToString())


def _prepare_text(side: int, channels: int) -> str:
    """The part before the network, in ONNX's own words."""
    to_grey = "grey = MatMul(levels, luma)\n    pixels = Round(grey)"
    red, green, blue = LUMA
    return _PREPARE.format(
        opset=OPSET,
        side=side,
        channels=channels,
        cubic=_CUBIC,
        red=red,
        green=green,
        blue=blue,
        to_grey=to_grey if channels == 1 else "pixels = Identity(levels)",
    )
