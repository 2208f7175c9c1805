"""The masked autoencoder: He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022.

The encoder sees the kept patches alone; a narrow decoder predicts the pixels of every patch from
their tokens and from one learned mask token at each hidden place.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ufm_jax.models.execution import Execution
from ufm_jax.models.layers import Dense, NormAffine, normalise
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import Blocks, Encoder
from ufm_jax.ops.position import sincos_2d


class MAE(nn.Module):
    """Masked autoencoder.

    Attributes:
        size: The encoder's width, depth and heads.
        grid: Patches down and across; their product is N.
        decoder_width: Channels of the decoder's tokens.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        execution: How the blocks are computed.
    """

    size: EncoderSize
    grid: tuple[int, int]
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, patches: jax.Array, keep_ids: jax.Array, restore_ids: jax.Array
    ) -> jax.Array:
        """Predicts all patches from the kept ones.

        Args:
            patches: [B, N, F] pixels of the degraded image, normalised.
            keep_ids: [B, Nk] indices of the kept patches.
            restore_ids: [B, N] rank of each patch in the drawn order, whose first Nk entries are
                ``keep_ids``: a patch is hidden where its rank is Nk or more.

        Returns:
            [B, N, F] predicted pixels, float32, in the normalisation of the loss's target.
        """
        encoder = Encoder(self.size, self.grid, execution=self.execution, name="encoder")
        decoder = Decoder(
            self.grid,
            features=patches.shape[-1],
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            execution=self.execution,
            name="decoder",
        )
        return decoder(encoder(patches, keep_ids), keep_ids, restore_ids)


class Decoder(nn.Module):
    """From the encoder's tokens to the pixels of every patch.

    Attributes:
        grid: Patches down and across.
        features: F, values a patch.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        execution: How the blocks are computed.
    """

    grid: tuple[int, int]
    features: int
    width: int
    depth: int
    heads: int
    execution: Execution = Execution()

    @nn.compact
    def __call__(self, latent: jax.Array, keep_ids: jax.Array, restore_ids: jax.Array) -> jax.Array:
        """Maps latent [B, 1 + Nk, D] to predicted patches [B, N, F], float32; ids as ``MAE``."""
        dtype = self.execution.dtype
        tokens = Dense(self.width, dtype, name="embed")(latent)
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width))
        hidden = (restore_ids >= keep_ids.shape[1])[..., None]
        placed = place_tokens(tokens[:, 1:], keep_ids, restore_ids)
        placed = jnp.where(hidden, mask_token.astype(dtype), placed)
        position = jnp.asarray(sincos_2d(self.width, *self.grid, cls_token=False), dtype)
        tokens = jnp.concatenate([tokens[:, :1], placed + position], axis=1)
        blocks = Blocks(self.depth, self.heads, execution=self.execution, name="blocks")
        tokens, _ = blocks(tokens)
        norm = NormAffine(name="norm")(self.width)
        prediction = Dense(self.features, dtype, name="predict")(normalise(tokens[:, 1:]), norm)
        return prediction.astype(jnp.promote_types(dtype, jnp.float32))


@jax.custom_vjp
def place_tokens(kept: jax.Array, keep_ids: jax.Array, restore_ids: jax.Array) -> jax.Array:
    """Puts kept tokens at their places in the image, zeros elsewhere.

    Both directions are gathers. Automatic differentiation would turn a gather into a scatter-add,
    which is slow on CPUs; here the derivative is the gather by ``keep_ids``.

    Args:
        kept: [B, Nk, D] tokens in the order of ``keep_ids``.
        keep_ids: [B, Nk] places of the kept tokens.
        restore_ids: [B, N] rank of each place; places with ranks from Nk on are hidden.

    Returns:
        [B, N, D].
    """
    return _place_forward(kept, keep_ids, restore_ids)[0]


def _place_forward(
    kept: jax.Array, keep_ids: jax.Array, restore_ids: jax.Array
) -> tuple[jax.Array, jax.Array]:
    ranks = restore_ids[..., None]
    count = kept.shape[1]
    gathered = jnp.take_along_axis(kept, jnp.minimum(ranks, count - 1), axis=1)
    return jnp.where(ranks < count, gathered, 0), keep_ids


def _place_backward(keep_ids: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None, None]:
    return jnp.take_along_axis(gradient, keep_ids[..., None], axis=1), None, None


place_tokens.defvjp(_place_forward, _place_backward)
