"""A trained model as one program: pictures of any size in, probabilities or masks out.

The program is StableHLO with the parameters in it, and needs nothing of ufm_jax to run:
``jax.export.deserialize(content).call(pictures)``, on a CPU or an NVIDIA GPU. What decoding,
resizing and normalising do to a picture is part of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.data.optional import needed_packages
from ufm_jax.errors import ConfigError
from ufm_jax.models.segmenter import bilinear
from ufm_jax.objectives.task import make_objective
from ufm_jax.ops.canvas import to_canvas
from ufm_jax.ops.pixels import rgb_to_grey
from ufm_jax.runs.trained_model import TrainedModel

PLATFORMS = ("cpu", "cuda")
PROGRAMS = {"stablehlo": "program.stablehlo", "onnx": "model.onnx"}
"""Form of a program -> its file in the folder of an export."""

Program = Callable[[np.ndarray], np.ndarray]
"""Pictures uint8 [B, H, W, 3] -> probabilities or masks; see ``make_program``."""


def make_program(config: FinetuneConfig, model: TrainedModel) -> bytes:
    """The program of a model whose parameters all images share.

    It maps uint8 [B, H, W, 3], for any B, H and W, to float32 [B, C] probabilities of a diagnosis,
    or to uint8 [B, H, W] class numbers of a segmentation, 0 being background; see ``predict`` of
    ``objectives.task``. Small regions are not taken out of masks.

    Raises:
        DataError: If flatbuffers is not installed.
    """
    with needed_packages():
        import flatbuffers  # noqa: F401
    # The program is for CPUs too, whatever device makes it.
    config = replace(config, model=replace(config.model, attention_kernel="xla"))
    predict = make_objective(config, model.task).predict
    segments = model.task.kind == "segment"

    def program(pictures: jax.Array) -> jax.Array:
        pixels = pictures.astype(jnp.float32)
        if config.data.channels == 1:
            pixels = jnp.round(rgb_to_grey(pixels))
        image, extent = to_canvas(pixels, config.data.working_size)
        probabilities = predict(model.params, {"image": image, "extent": extent})
        if not segments:
            return probabilities
        # As ``native_mask`` does it.
        return jnp.argmax(bilinear(probabilities, *pictures.shape[1:3]), axis=-1).astype(jnp.uint8)

    shape = jax.export.symbolic_shape("b, h, w, 3")
    with _without_paths():
        exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(shape, jnp.uint8)
        )
        return bytes(exported.serialize())


@contextmanager
def _without_paths() -> Iterator[None]:
    """Programs that are made here do not say where the code lies that made them."""
    key = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, key)
    jax.config.update(key, ".*")
    try:
        yield
    finally:
        jax.config.update(key, before)


def load_program(folder: Path | None, form: str) -> Program:
    """The program of an export, by JAX or by ONNX Runtime.

    JAX compiles it anew for each size of pictures, ONNX Runtime once.

    Args:
        folder: The folder of ``tools.export``; None is refused.
        form: A key of ``PROGRAMS``.

    Raises:
        ConfigError: If the folder has no program of that form.
        DataError: If a package that runs it is not installed.
    """
    if folder is None:
        raise ConfigError(f"--form={form} is of an export: name its folder, --model, without --run")
    if not (folder / PROGRAMS[form]).is_file():
        raise ConfigError(
            f"--form={form}: there is no {PROGRAMS[form]} in --model={folder}; name an export that "
            f"has one (tools.export --forms=weights,{form})"
        )
    path = folder / PROGRAMS[form]
    with needed_packages():
        if form == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(path)
            return lambda pictures: session.run(None, {"pictures": pictures})[0]
        call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda pictures: np.asarray(call(pictures))
