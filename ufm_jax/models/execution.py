"""How a transformer is computed: choices that change its speed and memory, but not its results."""

from typing import NamedTuple

import jax.numpy as jnp

from ufm_jax.models.attention import AttentionKernel


class Execution(NamedTuple):
    """How the blocks are computed; results differ by rounding alone.

    Attributes:
        dtype: Type of the arithmetic; parameters are always float32.
        remat: Whether the backward pass recomputes each block from its input and its attention's
            output, instead of keeping all intermediate values.
        scan_layers: Whether to scan over blocks, with their parameters stacked on a leading axis
            (see ``vit.stack_layers``). This compiles faster, and runs slower on CPUs.
        attention_kernel: See ``attention``.
    """

    dtype: jnp.dtype = jnp.dtype("float32")
    remat: bool = False
    scan_layers: bool = False
    attention_kernel: AttentionKernel = "auto"
