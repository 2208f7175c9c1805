"""How a transformer is computed: the choices that change its speed and memory, not what it is."""

from typing import NamedTuple

import jax.numpy as jnp

from ufm_jax.models.attention import AttentionKernel


class Execution(NamedTuple):
    """How the blocks are computed; results differ by rounding alone.

    Attributes:
        dtype: Type of the arithmetic; parameters are float32 always.
        remat: Whether the backward pass recomputes each block from its input and its attention's
            output, in place of keeping all it computed.
        scan_layers: Whether to scan over blocks, their parameters stacked on a leading axis (see
            ``vit.stack_layers``): faster to compile, slower to run on CPUs.
        attention_kernel: See ``attention``.
    """

    dtype: jnp.dtype = jnp.dtype("float32")
    remat: bool = False
    scan_layers: bool = False
    attention_kernel: AttentionKernel = "auto"
