"""What can be configured of an encoder, in pretraining and in fine-tuning."""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax.numpy as jnp

from ufm_jax.errors import ConfigError
from ufm_jax.models.attention import AttentionKernel
from ufm_jax.models.execution import Execution
from ufm_jax.ranges import Checked, Range


@dataclass(frozen=True)
class EncoderConfig(Checked):
    """The vision transformer, what it sees, and how it is computed.

    Attributes:
        size: Encoder by name; see ``models.sizes``.
        image_size: Side of the square the model sees, pixels.
        patch_size: Side of a patch, pixels; it must divide ``image_size``.
        channels: 3 repeats grey images, as the published models expect; 1 keeps them grey.
        dtype: Arithmetic of the model; parameters are float32 always.
        remat: Whether to recompute blocks in the backward pass, to save memory.
        scan_layers: Whether to scan over blocks: faster to compile, slower to run on CPUs.
        attention_kernel: ``auto`` is cuDNN's fused one for bfloat16 on NVIDIA GPUs (Ampere or
            newer), else XLA's; ``xla`` and ``cudnn`` insist on one of them.
    """

    size: Literal["xs", "ti", "s", "b", "l", "h"] = "b"
    image_size: Annotated[int, Range(1, 8192)] = 224
    patch_size: Annotated[int, Range(2)] = 16
    channels: Literal[1, 3] = 3
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    scan_layers: bool = False
    attention_kernel: AttentionKernel = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"config.model.patch_size={self.patch_size}: it does not divide "
                f"config.model.image_size={self.image_size}; change one of them"
            )
        if self.attention_kernel == "cudnn" and self.dtype != "bfloat16":
            raise ConfigError(
                f"config.model.attention_kernel='cudnn' needs config.model.dtype='bfloat16', not "
                f"{self.dtype!r}; set it, or use attention_kernel='auto'"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return (self.image_size // self.patch_size,) * 2

    @property
    def execution(self) -> Execution:
        """How the model is computed."""
        return Execution(jnp.dtype(self.dtype), self.remat, self.scan_layers, self.attention_kernel)
