"""Segmentation: a vision transformer and a decoder from its tokens to a class for every pixel.

Three decoders, from the most to the fewest layers of their own:

- ``unet`` climbs from the tokens' grid to the picture's in steps of two, as U-Net (Ronneberger et
  al. 2015) does; four of the encoder's blocks feed its first steps, as in UNETR (Hatamizadeh et al.
  2022), and the picture itself the last one, for detail finer than a patch.
- ``light`` joins the four blocks by a perceptron at the tokens' grid, as SegFormer (Xie et al.
  2021) joins its stages.
- ``linear`` sees the last block alone, as in Segmenter's linear decoder (Strudel et al. 2021), and
  so shows what the encoder knows by itself.

Norms are within an example, never over a batch, since clients differ in their statistics.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ufm_jax.models.convolution import Conv3x3
from ufm_jax.models.execution import Execution
from ufm_jax.models.layers import Dense, LayerNorm
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import Encoder
from ufm_jax.ops.crop import linear, resample_matrix
from ufm_jax.ops.patches import unpatchify

DecoderName = Literal["unet", "light", "linear"]

_TAPS = 4
_LEAST_WIDTH = 8
_GROUPS = 4


class Segmenter(nn.Module):
    """Encoder, decoder, linear head.

    Attributes:
        size: The encoder's width, depth and heads.
        grid: Patches down and across; their product is N.
        patch_size: Side P of a patch in pixels; the picture is P times the grid.
        num_classes: Channels of the result: 1 for foreground against background, otherwise one for
            the background and one for each foreground class.
        decoder: See the module's docstring.
        decoder_width: Channels of the decoder at the tokens' grid; ``unet`` halves them at each
            step, down to 8.
        taps: Four encoder blocks, from 0, that feed the decoder; None for ``default_taps``.
        learned_position: See ``vit.Encoder``.
        drop_path: Stochastic depth of the encoder's last block.
        execution: How the blocks are computed.
    """

    size: EncoderSize
    grid: tuple[int, int]
    patch_size: int
    num_classes: int = 1
    decoder: DecoderName = "unet"
    decoder_width: int = 128
    taps: tuple[int, int, int, int] | None = None
    learned_position: bool = False
    drop_path: float = 0.0
    execution: Execution = Execution()

    @nn.compact
    def __call__(self, patches: jax.Array, deterministic: bool = True) -> jax.Array:
        """The logits of all pixels of images.

        Args:
            patches: [B, N, F] normalised pixels of all patches.
            deterministic: Whether stochastic depth is off.

        Returns:
            Logits [B, H, W, num_classes], float32.

        Raises:
            ValueError: If the decoder or the number of taps is unknown, or a patch does not have
                the pixels that ``patch_size`` says.
        """
        taps = default_taps(self.size.depth) if self.taps is None else self.taps
        if len(taps) != _TAPS:
            raise ValueError(f"taps={taps} of a segmenter: give {_TAPS} of the encoder's blocks")
        height, width = (side * self.patch_size for side in self.grid)
        picture = unpatchify(patches, self.patch_size, height, width)
        encoder = Encoder(
            self.size,
            self.grid,
            drop_path=self.drop_path,
            final_norm=False,
            learned_position=self.learned_position,
            execution=self.execution,
            name="encoder",
        )
        outputs = encoder.block_outputs(patches, taps, deterministic)
        maps = tuple(tokens[:, 1:].reshape(-1, *self.grid, self.size.width) for tokens in outputs)
        features = self._decode(maps, picture)
        dtype = self.execution.dtype
        head = Dense(self.num_classes, dtype, name="head")
        logits = head(features).astype(jnp.promote_types(dtype, jnp.float32))
        return bilinear(logits, height, width)

    def _decode(self, maps: tuple[jax.Array, ...], picture: jax.Array) -> jax.Array:
        dtype = self.execution.dtype
        match self.decoder:
            case "unet":
                unet = UNetDecoder(self.patch_size, self.decoder_width, dtype, name="decoder")
                return unet(maps, picture)
            case "light":
                return LightDecoder(self.decoder_width, dtype, name="decoder")(maps)
            case "linear":
                return LayerNorm(dtype, name="decoder")(maps[-1])
            case _:
                raise ValueError(f"decoder={self.decoder!r}: choose 'unet', 'light' or 'linear'")


class UNetDecoder(nn.Module):
    """From tokens to features of every pixel, in steps of two.

    If P is not a power of two, the last step is shorter, and interpolates. Blocks feed the steps
    last block first; with fewer steps than blocks, the earliest blocks are not used.

    Attributes:
        patch_size: P, pixels a token stands for, down and across.
        width: Channels at the tokens' grid.
        dtype: Type of the arithmetic.
    """

    patch_size: int
    width: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...], picture: jax.Array) -> jax.Array:
        """Maps tokens, four of [B, h, w, D], and the picture [B, H, W, C] to [B, H, W, c]."""
        scales = _scales(self.patch_size)
        features = self._tokens(maps[-1], self.width, 0)
        features = ConvUnit(self.width, self.dtype, name="unit_0")(features)
        for step, scale in enumerate(scales[1:], start=1):
            width = max(self.width >> step, _LEAST_WIDTH)
            parts = [self._enlarge(features, width, scale / scales[step - 1], step)]
            if step < len(maps):
                skip = self._tokens(maps[-1 - step], width * scale**2, step)
                parts.append(_shuffle(skip, scale))
            if scale == self.patch_size:
                parts.append(ConvUnit(width, self.dtype, name="stem")(picture))
            features = jnp.concatenate(parts, axis=-1)
            for name in (f"unit_{step}a", f"unit_{step}b"):
                features = ConvUnit(width, self.dtype, name=name)(features)
        return features

    def _tokens(self, tokens: jax.Array, width: int, step: int) -> jax.Array:
        """A block's tokens, which are not normalised before, normed and with ``width`` channels."""
        normed = LayerNorm(self.dtype, name=f"norm_{step}")(tokens)
        return Dense(width, self.dtype, name=f"tokens_{step}")(normed)

    def _enlarge(self, features: jax.Array, width: int, factor: float, step: int) -> jax.Array:
        """Learned doubling: each pixel becomes four of its own (Shi et al. 2016)."""
        if factor == 2:
            return _shuffle(Dense(4 * width, self.dtype, name=f"enlarge_{step}")(features), 2)
        height, across = (round(side * factor) for side in features.shape[1:3])
        features = Dense(width, self.dtype, name=f"enlarge_{step}")(features)
        return bilinear(features, height, across)


class LightDecoder(nn.Module):
    """A perceptron over the four blocks' tokens at each place.

    Attributes:
        width: Channels of each block's part, and of the result.
        dtype: Type of the arithmetic.
    """

    width: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...]) -> jax.Array:
        """Maps tokens, four of [B, h, w, D], to features [B, h, w, width]."""
        parts = [
            Dense(self.width, self.dtype, name=f"tokens_{i}")(
                LayerNorm(self.dtype, name=f"norm_{i}")(tokens)
            )
            for i, tokens in enumerate(maps)
        ]
        joined = Dense(self.width, self.dtype, name="join")(jnp.concatenate(parts, axis=-1))
        return nn.relu(LayerNorm(self.dtype, name="norm")(joined))


class ConvUnit(nn.Module):
    """Convolution, group norm (Wu and He 2018) and leaky ReLU, as in nnU-Net.

    A plain ReLU may be zero over a whole background, and then learns nothing more about it.

    Attributes:
        features: Output channels.
        dtype: Type of the arithmetic.
    """

    features: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, I] to [B, H, W, features]."""
        convolved = Conv3x3(self.features, self.dtype, name="conv")(inputs)
        groups = math.gcd(_GROUPS, self.features)
        return nn.leaky_relu(nn.GroupNorm(groups, dtype=self.dtype, name="norm")(convolved))


def default_taps(depth: int) -> tuple[int, int, int, int]:
    """Blocks 3, 5, 7 and 11 of 12 from 0, as in the recipe, or at the same shares of ``depth``.

    An encoder of fewer than four blocks has some of them twice.
    """
    first, second, third = (max(round(depth * share / 12), 1) - 1 for share in (4, 6, 8))
    return first, second, third, depth - 1


def bilinear(images: jax.Array, height: int, width: int) -> jax.Array:
    """Images [B, h, w, C] resized to [B, height, width, C]; the pictures' corners coincide."""
    _, rows, columns, _ = images.shape
    if (rows, columns) == (height, width):
        return images
    down = resample_matrix(0, rows, height, rows, kernel=linear)
    across = resample_matrix(0, columns, width, columns, kernel=linear)
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum("Hh,bhwc->bHwc", down, images, precision=exact)
    return jnp.einsum("Ww,bHwc->bHWc", across, images, precision=exact)


def _shuffle(features: jax.Array, scale: int) -> jax.Array:
    """Spreads the channels of [B, h, w, scale * scale * C] to [B, scale * h, scale * w, C]."""
    batch, rows, columns, channels = features.shape
    tokens = features.reshape(batch, rows * columns, channels)
    return unpatchify(tokens, scale, rows * scale, columns * scale)


def _scales(patch_size: int) -> list[int]:
    """The side, in pixels, of a token at each step: 1, 2, 4 and so on, and ``patch_size`` last."""
    scales = [1]
    while scales[-1] < patch_size:
        scales.append(min(2 * scales[-1], patch_size))
    return scales
