"""What the report is told about a run, besides its history."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """Facts about a run that do not change from round to round.

    Attributes:
      name: The config's name; the report's title.
      created: Date of the report, as it shall be printed.
      config: The resolved config, nested dicts of plain values.
      versions: Software name -> version.
      device: The accelerator in words, e.g. ``NVIDIA H100 80GB``.
      num_parameters: Parameters of the trained model, encoder and decoder.
      num_devices: Devices the lanes spread over.
      lanes: Lanes on each device.
      compile_seconds: Time spent compiling the round, in all.
      compilations: How often the round was compiled; 1 is as intended.
      notes: Sentences to print below the summary.
    """

    name: str
    created: str
    config: dict[str, Any]
    versions: dict[str, str]
    device: str
    num_parameters: int
    num_devices: int
    lanes: int
    compile_seconds: float
    compilations: int
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Example images of the end of a run. n examples, gh x gw patches, K clients.

    Images are uint8, [n, H, W] grey or [n, H, W, 3] colour, all of one H and W.

    Attributes:
      input: What the encoder saw before masking: degraded and augmented.
      masked: ``input`` with the hidden patches blanked.
      reconstruction: The model's output, in the original grey scale, in the hidden patches, and
        ``clean`` in the others.
      clean: The target: the image before degradation.
      texture_score: float [n, gh, gw], the texture score of each patch of ``clean``.
      mask: [n, gh, gw], 1 = hidden.
      captions: n texts, usually the clients' names.
      thumbnails: Client name -> uint8 [h, w] or [h, w, 3], the client's first image.
    """

    input: np.ndarray
    masked: np.ndarray
    reconstruction: np.ndarray
    clean: np.ndarray
    texture_score: np.ndarray
    mask: np.ndarray
    captions: list[str]
    thumbnails: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        """Checks shapes and types.

        Raises:
          ValueError: If a field's type or shape does not fit; names the field.
        """
        count, size = len(self.captions), self.clean.shape[1:3]
        for name in ("input", "masked", "reconstruction", "clean"):
            image = getattr(self, name)
            _check_image(f"Pictures.{name}", image, leading=1)
            if image.shape[0] != count or image.shape[1:3] != size:
                raise ValueError(
                    f"Pictures.{name} has shape {image.shape}; with {count} captions and clean "
                    f"images of {size} it must begin with {(count, *size)}."
                )
        for name in ("texture_score", "mask"):
            grid = getattr(self, name)
            if grid.ndim != 3 or grid.shape[0] != count or grid.shape != self.mask.shape:
                raise ValueError(
                    f"Pictures.{name} has shape {grid.shape}; texture_score and mask must both be "
                    f"[{count}, gh, gw]."
                )
        for client, thumbnail in self.thumbnails.items():
            _check_image(f"Pictures.thumbnails[{client!r}]", thumbnail, leading=0)


def _check_image(name: str, image: np.ndarray, *, leading: int) -> None:
    """Requires uint8, ``leading`` axes and then [H, W] or [H, W, 3]."""
    spatial = image.shape[leading:]
    if image.dtype != np.uint8 or not (
        len(spatial) == 2 or (len(spatial) == 3 and spatial[2] == 3)
    ):
        raise ValueError(
            f"{name} is {image.dtype} {image.shape}; it must be uint8 and end in [H, W] or "
            "[H, W, 3]. Undo the normalisation, round and clip to 0..255 first."
        )
