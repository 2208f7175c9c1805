"""The vision transformer (Dosovitskiy et al. 2021), in the form of MAE (He et al. 2022).

Pre-norm blocks, a class token, 2-D sin-cos position embeddings, patches as rows of pixels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from ufm_jax.models.attention import AttentionKernel, attention, may_fuse
from ufm_jax.models.execution import Execution
from ufm_jax.models.layers import (
    Affine,
    Dense,
    LayerNorm,
    NormAffine,
    add_bias,
    drop_path,
    gelu,
    normalise,
)
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.ops.position import sincos_2d

MLP_RATIO = 4

KEPT_BY_REMAT = "attention_output"
"""Name of the one array that a rematerialised block keeps beside its input.

The policy goes by name, since a policy that goes by shapes takes a matmul whose weights differ
between vmapped clients for a batched one, and keeps nothing.
"""


class Block(nn.Module):
    """A pre-norm transformer block.

    Attributes:
        heads: Attention heads.
        drops_paths: Whether stochastic depth is applied, with keys from the 'drop_path' stream.
        dtype: Type of the arithmetic.
        attention_kernel: See ``attention``.
        real: How many of the tokens are real; later ones are padding. By default all are.
    """

    heads: int
    drops_paths: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")
    attention_kernel: AttentionKernel = "auto"
    real: int | None = None

    @nn.compact
    def __call__(self, tokens: jax.Array, rate: float | jax.Array = 0.0) -> jax.Array:
        """Maps tokens [B, N, D] to tokens, each branch dropped with probability ``rate``."""
        batch, count, width = tokens.shape
        norm = NormAffine(name="norm1")(width)
        qkv, biases = Dense(3 * width, self.dtype, name="qkv").parts(normalise(tokens), 3, norm)
        query, key, value = (
            part.reshape(batch, count, self.heads, width // self.heads)
            for part in (add_bias(qkv[0], biases[0]), *qkv[1:])
        )
        attended = attention(query, key, value, self.attention_kernel, self.real)
        attended = attended.reshape(batch, count, width)
        attended = checkpoint_name(attended, KEPT_BY_REMAT)
        # The key's bias adds the same to all logits of a query, and the softmax cancels it. The
        # softmax' weights sum to 1, so that the value's bias is added after the average.
        shift = Affine(None, biases[2])
        tokens = tokens + self._drop(Dense(width, self.dtype, name="proj")(attended, shift), rate)

        norm = NormAffine(name="norm2")(width)
        hidden = gelu(Dense(MLP_RATIO * width, self.dtype, name="fc1")(normalise(tokens), norm))
        return tokens + self._drop(Dense(width, self.dtype, name="fc2")(hidden), rate)

    def _drop(self, branch: jax.Array, rate: float | jax.Array) -> jax.Array:
        return drop_path(branch, rate, self.make_rng("drop_path")) if self.drops_paths else branch


class Blocks(nn.Module):
    """A stack of blocks.

    Attributes:
        depth: Number of blocks.
        heads: Attention heads a block.
        drop_path: Probability of dropping a branch of the last block; it grows linearly from 0 at
            the first.
        execution: How the blocks are computed.
    """

    depth: int
    heads: int
    drop_path: float = 0.0
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, tokens: jax.Array, taps: tuple[int, ...] = (), deterministic: bool = True
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Runs the blocks.

        Args:
            tokens: [B, N, D].
            taps: Indices, from 0, of further blocks whose output is returned.
            deterministic: Whether stochastic depth is off.

        Returns:
            The last block's tokens and the tapped blocks' tokens, each [B, N, D].
        """
        if any(not 0 <= tap < self.depth for tap in taps):
            raise ValueError(f"taps {taps}: choose blocks from 0 to {self.depth - 1}")
        rates = [self.drop_path * i / max(self.depth - 1, 1) for i in range(self.depth)]
        run = self._scan if self.execution.scan_layers else self._unroll
        real, width = tokens.shape[1:]
        how = self.execution
        if real % 2 and may_fuse(how.attention_kernel, how.dtype, width // self.heads):
            # cuDNN differentiates an even number of tokens alone: a token of padding is added.
            tokens = jnp.pad(tokens, ((0, 0), (0, 1), (0, 0)))
        make = partial(self._block, self.drop_path > 0 and not deterministic, real)
        tokens, tapped = run(make, tokens, rates, taps)
        return tokens[:, :real], tuple(tap[:, :real] for tap in tapped)

    def _unroll(
        self,
        make: Callable[[str], Block],
        tokens: jax.Array,
        rates: list[float],
        taps: tuple[int, ...],
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        outputs = []
        for i, rate in enumerate(rates):
            tokens = make(f"block_{i}")(tokens, rate)
            outputs.append(tokens)
        return tokens, tuple(outputs[tap] for tap in taps)

    def _scan(
        self,
        make: Callable[[str], Block],
        tokens: jax.Array,
        rates: list[float],
        taps: tuple[int, ...],
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        def step(
            block: Block, carry: jax.Array, rate: jax.Array
        ) -> tuple[jax.Array, jax.Array | None]:
            carry = block(carry, rate)
            return carry, carry if taps else None

        scan = nn.scan(
            step,
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop_path": True},
            length=self.depth,
        )
        tokens, stacked = scan(make("block"), tokens, jnp.array(rates, jnp.float32))
        return tokens, () if stacked is None else tuple(stacked[tap] for tap in taps)

    def _block(self, drops_paths: bool, real: int, name: str) -> Block:
        block, how = Block, self.execution
        if how.remat:
            policy = jax.checkpoint_policies.save_only_these_names(KEPT_BY_REMAT)
            block = nn.remat(Block, policy=policy, prevent_cse=not how.scan_layers)
        return block(self.heads, drops_paths, how.dtype, how.attention_kernel, real, name=name)


class Encoder(nn.Module):
    """A vision transformer from patches to tokens.

    Attributes:
        size: Width, depth and heads.
        grid: Patches down and across; their product is N.
        drop_path: Stochastic depth of the last block.
        final_norm: Whether the tokens are normalised after the last block.
        learned_position: Whether the position embedding, including the class token's, is a
            parameter that starts as the fixed sin-cos one, as in supervised and in published
            fine-tuned ViTs. Otherwise it is that constant, zero for the class token.
        execution: How the blocks are computed.
    """

    size: EncoderSize
    grid: tuple[int, int]
    drop_path: float = 0.0
    final_norm: bool = True
    learned_position: bool = False
    execution: Execution = Execution()

    def setup(self) -> None:
        """Declares the layers."""
        dtype = self.execution.dtype
        self.patch_embed = Dense(self.size.width, dtype)
        self.cls_token = self.param(
            "cls_token", nn.initializers.normal(0.02), (1, 1, self.size.width)
        )
        position = sincos_2d(self.size.width, *self.grid, cls_token=True)[None]
        if self.learned_position:
            self.pos_embed = self.param("pos_embed", lambda _: jnp.asarray(position))
        else:
            self.pos_embed = jnp.asarray(position, dtype)
        self.blocks = Blocks(self.size.depth, self.size.heads, self.drop_path, self.execution)
        if self.final_norm:
            self.norm = LayerNorm(dtype)

    def __call__(
        self, patches: jax.Array, keep_ids: jax.Array | None = None, deterministic: bool = True
    ) -> jax.Array:
        """The tokens of an image's kept patches.

        Args:
            patches: [B, N, F] normalised pixels of all patches, in rows.
            keep_ids: [B, Nk] indices of the patches to encode; None for all.
            deterministic: Whether stochastic depth is off.

        Returns:
            [B, 1 + Nk, D] tokens, after the final norm if there is one: the class token, then the
            kept patches in the order of ``keep_ids``.
        """
        tokens, _ = self.blocks(self._embed(patches, keep_ids), deterministic=deterministic)
        return self.norm(tokens) if self.final_norm else tokens

    def block_outputs(
        self, patches: jax.Array, taps: tuple[int, ...], deterministic: bool = True
    ) -> tuple[jax.Array, ...]:
        """Tokens [B, 1 + N, D] as they leave the blocks ``taps``, before the final norm.

        Args:
            patches: [B, N, F] normalised pixels of all patches.
            taps: Indices of blocks, from 0.
            deterministic: Whether stochastic depth is off.
        """
        return self.blocks(self._embed(patches, None), taps, deterministic)[1]

    def _embed(self, patches: jax.Array, keep_ids: jax.Array | None) -> jax.Array:
        rows, columns = self.grid
        if patches.shape[1] != rows * columns:
            raise ValueError(
                f"patches {patches.shape}: the encoder's grid {self.grid} has {rows * columns}"
            )
        dtype = self.execution.dtype
        position = self.pos_embed[0].astype(dtype)
        cls_token = self.cls_token.astype(dtype) + position[0]
        place = position[1:]
        # Gathered before the embedding: a quarter of the products, and no gradient of a gather.
        if keep_ids is not None:
            patches = jnp.take_along_axis(patches, keep_ids[..., None], axis=1)
            place = place[keep_ids]
        tokens = self.patch_embed(patches) + place
        cls_tokens = jnp.broadcast_to(cls_token, (tokens.shape[0], 1, self.size.width))
        return jnp.concatenate([cls_tokens, tokens], axis=1)


def stack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an unrolled model in the layout of ``scan_layers=True``.

    Each group ``block_0 .. block_n`` becomes one ``block`` of stacked leaves [n + 1, ...].
    """
    names = [f"block_{i}" for i in range(len(params))]
    if names and set(names) == set(params):
        return {"block": jax.tree.map(lambda *a: jnp.stack(a), *(params[n] for n in names))}
    return {k: stack_layers(v) if isinstance(v, Mapping) else v for k, v in params.items()}


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in the layout of ``scan_layers=False``: the inverse of ``stack_layers``."""
    if set(params) == {"block"}:
        depth = len(jax.tree.leaves(params["block"])[0])
        return {
            f"block_{i}": jax.tree.map(lambda a, i=i: a[i], params["block"]) for i in range(depth)
        }
    return {k: unstack_layers(v) if isinstance(v, Mapping) else v for k, v in params.items()}
