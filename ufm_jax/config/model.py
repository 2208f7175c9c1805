"""What can be configured of the encoder, and of the masked autoencoder around it."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import jax.numpy as jnp

from ufm_jax.errors import ConfigError
from ufm_jax.models.attention import AttentionKernel
from ufm_jax.models.execution import Execution
from ufm_jax.ops.masking import num_kept
from ufm_jax.ranges import Amount, AtLeastOne, Checked, Range


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


@dataclass(frozen=True)
class ModelConfig(EncoderConfig):
    """The masked autoencoder; further keys are the encoder's.

    Attributes:
        mask_ratio: Share of the patches that is hidden.
        texture_strength: Exponent on the texture weight: 1 hides textured patches more often, as
            UltraFedFM intends; 0 hides uniformly, as MAE does.
        normalise_target: Whether each target patch is normalised by its own mean and variance.
        decoder_width, decoder_depth, decoder_heads: The decoder.
    """

    mask_ratio: Annotated[float, Range(0, 1, above=True, below=True)] = 0.75
    texture_strength: Amount = 1.0
    normalise_target: bool = True
    decoder_width: Annotated[int, Range(4, 16_384)] = 512
    decoder_depth: Annotated[int, Range(1, 1000)] = 8
    decoder_heads: AtLeastOne = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            num_kept(self.num_patches, self.mask_ratio)
        except ValueError as error:
            raise ConfigError(f"config.model.{error}") from None
        width, heads = self.decoder_width, self.decoder_heads
        if width % heads or width % 4:
            raise ConfigError(
                f"config.model.decoder_width: width {width} must be a multiple of 4 and of its "
                f"{heads} heads"
            )

    @property
    def num_patches(self) -> int:
        """N."""
        return math.prod(self.grid)

    @property
    def num_kept(self) -> int:
        """Patches that the encoder sees."""
        return num_kept(self.num_patches, self.mask_ratio)
