"""Diagnosis: a vision transformer, a pooled feature and a linear head."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ufm_jax.models.execution import Execution
from ufm_jax.models.layers import Dense, LayerNorm
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import Encoder

Pool = Literal["mean", "class"]


class Classifier(nn.Module):
    """Encoder, pooling, linear head.

    Attributes:
        size: The encoder's width, depth and heads.
        grid: Patches down and across; their product is N.
        num_classes: Outputs of the head.
        pool: 'mean' takes the mean of the patch tokens and gives it a norm of its own, as MAE's
            fine-tuning does; 'class' takes the class token after the encoder's final norm.
        learned_position: See ``vit.Encoder``.
        drop_path: Stochastic depth of the last block.
        execution: How the blocks are computed.
    """

    size: EncoderSize
    grid: tuple[int, int]
    num_classes: int
    pool: Pool = "mean"
    learned_position: bool = False
    drop_path: float = 0.0
    execution: Execution = Execution()

    def setup(self) -> None:
        """Declares the layers."""
        if self.pool not in ("mean", "class"):
            raise ValueError(f"pool={self.pool!r}: choose 'mean' or 'class'")
        dtype = self.execution.dtype
        self.encoder = Encoder(
            self.size,
            self.grid,
            drop_path=self.drop_path,
            final_norm=self.pool == "class",
            learned_position=self.learned_position,
            execution=self.execution,
        )
        if self.pool == "mean":
            self.norm = LayerNorm(dtype)
        # Almost zero, as in MAE's fine-tuning, so that training starts from equal probabilities.
        self.head = Dense(self.num_classes, dtype, nn.initializers.normal(2e-5))

    def __call__(self, patches: jax.Array, deterministic: bool = True) -> jax.Array:
        """The logits of images.

        Args:
            patches: [B, N, F] normalised pixels of all patches.
            deterministic: Whether stochastic depth is off.

        Returns:
            Logits [B, num_classes], float32.
        """
        logits = self.head(self.features(patches, deterministic))
        return logits.astype(jnp.promote_types(self.execution.dtype, jnp.float32))

    def features(self, patches: jax.Array, deterministic: bool = True) -> jax.Array:
        """The pooled, normalised feature [B, D] that the head sees; arguments are the call's."""
        tokens = self.encoder(patches, deterministic=deterministic)
        if self.pool == "class":
            return tokens[:, 0]
        accumulator = jnp.promote_types(self.execution.dtype, jnp.float32)
        return self.norm(tokens[:, 1:].mean(axis=1, dtype=accumulator))
