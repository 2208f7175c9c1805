"""To which part of a round a kernel is counted."""

import pytest

from tools.benchmarks.compile_parts import part_of
from tools.benchmarks.hlo import Instruction
from tools.benchmarks.hlo_costs import Kernel

_STEP = ("ufm_jax/fed/lanes.py:_step", "ufm_jax/fed/lanes.py:run_steps")
_BLOCK = (
    "ufm_jax/models/vit.py:Block.__call__",
    "ufm_jax/objectives/reconstruction.py:reconstruct",
    *_STEP,
)


def kernel(name, places):
    attributes = f'metadata={{op_name="jit(round)/while/body/{name}"}}'
    line = Instruction("f", "fusion", (), (), "", attributes)
    return Kernel(line, places, 1, 0, 0, 0, "", False)


@pytest.mark.parametrize(
    ("part", "name", "places"),
    [
        ("encoder attention", "jvp(MAE)/encoder/blocks/block_3/qkv/dot_general", _BLOCK),
        ("decoder attention", "jvp(MAE)/decoder/blocks/block_3/dot_product_attention_fwd", _BLOCK),
        (
            "decoder attention",
            "transpose(jvp(MAE))/decoder/blocks/block_3/reduce",
            ("ufm_jax/models/attention.py:_backward", *_BLOCK),
        ),
        ("encoder mlp", "transpose(jvp(MAE))/encoder/blocks/block_0/fc1/reduce_sum", _BLOCK),
        (
            "decoder mlp",
            "jvp(MAE)/decoder/blocks/block_0/erf",
            ("ufm_jax/models/layers.py:_gelu_forward", *_BLOCK),
        ),
        ("encoder norm", "jvp(MAE)/encoder/blocks/block_0/norm2/mul", _BLOCK),
        ("encoder other", "jvp(MAE)/encoder/blocks/block_0/add", _BLOCK),
        (
            "augmentation and masking",
            "jvp(vmap())/gather",
            (
                "ufm_jax/ops/scan_conversion.py:sample",
                "ufm_jax/objectives/reconstruction.py:view",
                *_STEP,
            ),
        ),
        (
            "augmentation and masking",
            "jvp(vmap())/concatenate",
            ("ufm_jax/objectives/reconstruction.py:make_view", *_STEP),
        ),
        ("loss", "jvp(vmap())/mul", ("ufm_jax/ops/losses.py:masked_patch_loss", *_STEP)),
        ("optimiser", "mul", ("optax/_src/transform.py:scale_by_adam", *_STEP)),
        ("batch", "gather", ("ufm_jax/fed/lanes.py:_batch", *_STEP)),
        ("lanes", "select_n", ("ufm_jax/fed/loops.py:segment", *_STEP)),
        ("other", "add", ()),
    ],
)
def test_a_kernel_is_counted_where_its_operation_comes_from(part, name, places):
    assert part_of(kernel(name, places)) == part
