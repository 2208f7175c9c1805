"""What a program moves and multiplies, on small programs whose counts are worked out by hand."""

# ruff: noqa: E501 - the lines of programs are long.
from pathlib import Path

import pytest

from tools.benchmarks.hlo import read_module
from tools.benchmarks.hlo_costs import (
    Ceiling,
    collectives,
    host_reads,
    kernels_of,
    step_loop,
    total,
    walk,
)

CEILING = Ceiling(1e9, {"bf16": 1e12, "f32": 1e11})


def entry(lines, before="", parameters=""):
    """A program of one computation."""
    body = "\n".join(f"  {line}" for line in lines.strip().splitlines())
    return read_module(f"HloModule m\n\n{before}\nENTRY %main (x: f32[]) -> f32[] {{\n{body}\n}}\n")


def kernels(module):
    return {k.instruction.name: k for k in kernels_of(module, module.entry)}


def fused(body, call):
    return entry(call, f"%body (p: f32[]) -> f32[] {{\n{body}\n}}\n")


def test_what_moves_nothing_is_not_a_kernel():
    module = entry("""%p = f32[8,4]{1,0} parameter(0)
%c = f32[] constant(2)
%b = f32[32]{0} bitcast(%p)
%copy = f32[8,4]{0,1} copy(%p)
%t = (f32[32]{0}, f32[8,4]{0,1}) tuple(%b, %copy)
ROOT %g = f32[32]{0} get-tuple-element(%t), index=0""")
    (kernel,) = kernels(module).values()
    assert (kernel.instruction.name, kernel.read, kernel.written) == ("copy", 128, 128)


def test_a_fusion_reads_its_operands_and_writes_its_results():
    module = fused(
        """  %a = bf16[100]{0} parameter(0)
  %s = f32[] parameter(1)
  %w = f32[100]{0} convert(%a)
  %sb = f32[100]{0} broadcast(%s), dimensions={}
  %m = f32[100]{0} multiply(%w, %sb)
  %p = pred[100]{0} compare(%m, %w), direction=GT
  ROOT %t = (f32[100]{0}, pred[100]{0}) tuple(%m, %p)""",
        """%x = bf16[100]{0} parameter(0)
%y = f32[] parameter(1)
ROOT %f = (f32[100]{0}, /*index=1*/pred[100]{0}) fusion(%x, %y), kind=kLoop, calls=%body""",
    )
    kernel = kernels(module)["f"]
    assert kernel.read == 200 + 4
    assert kernel.written == 400 + 100


@pytest.mark.parametrize("scratch", ["u8[4096]{0}", "s8[33554432]{0}"])
def test_what_a_library_scribbles_on_is_no_result(scratch):
    (kernel,) = kernels(
        entry(f"""%x = f32[8,8]{{1,0}} parameter(0)
ROOT %c = (f32[8,8]{{1,0}}, {scratch}) custom-call(%x, %x), custom_call_target="__cublas$lt$matmul", backend_config={{"gemm_backend_config":{{"dot_dimension_numbers":{{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}}}}""")
    ).values()
    assert (kernel.read, kernel.written, kernel.flops) == (256, 256, 2 * 8**3)


def test_an_operand_counts_with_what_a_fusion_takes_of_it():
    # A row of [1000, 8], cut by a bitcast and a conversion away; two halves of [40]; 4 rows of 8.
    module = fused(
        """  %a = f32[1000,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %h = f32[40]{0} parameter(2)
  %e = f32[500,8]{1,0} parameter(3)
  %rows = s32[4]{0} parameter(4)
  %wide = f64[1000,8]{1,0} convert(%a)
  %row = f64[1,8]{1,0} dynamic-slice(%wide, %i, %z), dynamic_slice_sizes={1,8}
  %flat = f64[8]{0} bitcast(%row)
  %h1 = f32[8]{0} slice(%h), slice={[0:8]}
  %h2 = f32[8]{0} slice(%h), slice={[32:40]}
  %g = f32[4,8]{1,0} gather(%e, %rows), offset_dims={1}
  ROOT %t = (f64[8]{0}, f32[8]{0}, f32[8]{0}, f32[4,8]{1,0}) tuple(%flat, %h1, %h2, %g)""",
        """%x = f32[1000,8]{1,0} parameter(0)
%i = s32[] parameter(1)
%y = f32[40]{0} parameter(2)
%e = f32[500,8]{1,0} parameter(3)
%r = s32[4]{0} parameter(4)
ROOT %f = (f64[8]{0}, f32[8]{0}, f32[8]{0}, f32[4,8]{1,0}) fusion(%x, %i, %y, %e, %r), calls=%body""",
    )
    kernel = kernels(module)["f"]
    assert kernel.read == 8 * 4 + 4 + 16 * 4 + 32 * 4 + 4 * 4
    assert kernel.written == 64 + 32 + 32 + 128


def test_an_operand_that_is_also_read_whole_counts_whole():
    module = fused(
        """  %a = f32[100]{0} parameter(0)
  %s = f32[10]{0} slice(%a), slice={[0:10]}
  %n = f32[100]{0} negate(%a)
  ROOT %t = (f32[10]{0}, f32[100]{0}) tuple(%s, %n)""",
        """%x = f32[100]{0} parameter(0)
ROOT %f = (f32[10]{0}, f32[100]{0}) fusion(%x), kind=kLoop, calls=%body""",
    )
    assert kernels(module)["f"].read == 400


def test_an_update_in_place_moves_the_update_alone():
    module = fused(
        """  %all = f32[1000,8]{1,0} parameter(0)
  %new = f32[8]{0} parameter(1)
  %i = s32[] parameter(2)
  %z = s32[] constant(0)
  %row = f32[1,8]{1,0} bitcast(%new)
  %u = f32[1000,8]{1,0} dynamic-update-slice(%all, %row, %i, %z)
  ROOT %b = f32[8000]{0} bitcast(%u)""",
        """%x = f32[1000,8]{1,0} parameter(0)
%n = f32[8]{0} parameter(1)
%i = s32[] parameter(2)
%f = f32[8000]{0} fusion(%x, %n, %i), kind=kLoop, calls=%body
%one = f32[1,8]{1,0} bitcast(%n)
%alone = f32[1000,8]{1,0} dynamic-update-slice(%x, %one, %i, %i)
ROOT %t = (f32[8000]{0}, f32[1000,8]{1,0}) tuple(%f, %alone)""",
    )
    for name in ("f", "alone"):
        kernel = kernels(module)[name]
        assert (kernel.read, kernel.written) == (32 + 4, 32), name


def test_an_update_of_what_the_fusion_makes_is_written_whole():
    module = fused(
        """  %new = f32[8]{0} parameter(0)
  %i = s32[] parameter(1)
  %z = f32[] constant(0)
  %zeros = f32[80]{0} broadcast(%z), dimensions={}
  ROOT %u = f32[80]{0} dynamic-update-slice(%zeros, %new, %i)""",
        """%n = f32[8]{0} parameter(0)
%i = s32[] parameter(1)
ROOT %f = f32[80]{0} fusion(%n, %i), kind=kLoop, calls=%body""",
    )
    kernel = kernels(module)["f"]
    assert (kernel.read, kernel.written) == (32 + 4, 320)


def test_a_scatter_in_place_moves_indices_and_updates():
    module = entry("""%x = f32[1000,8]{1,0} parameter(0)
%i = s32[4,1]{1,0} parameter(1)
%u = f32[4,8]{1,0} parameter(2)
ROOT %s = f32[1000,8]{1,0} scatter(%x, %i, %u), to_apply=%add""")
    kernel = kernels(module)["s"]
    assert (kernel.read, kernel.written) == (16 + 128, 128)


def test_products_count_two_operations_for_each_multiplication():
    module = entry(
        """%x = bf16[5,16,32]{2,1,0} parameter(0)
%y = bf16[5,32,8]{2,1,0} parameter(1)
%i = f32[2,9,9,3]{3,2,1,0} parameter(2)
%w = f32[3,3,3,7]{3,2,1,0} parameter(3)
%g = f32[5,16,8]{2,1,0} fusion(%x, %y), kind=kCustom, calls=%body
%c = f32[2,7,7,7]{3,2,1,0} convolution(%i, %w), window={size=3x3}, dim_labels=b01f_01io->b01f
%l = (f32[5,16,8]{2,1,0}, u8[4096]{0}) custom-call(%x, %y), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"]}}}
%d = (f32[2,9,9,3]{3,2,1,0}, u8[0]{0}) custom-call(%c, %w), custom_call_target="__cudnn$convBackwardInput", dim_labels=b01f_01io->b01f
%e = (f32[3,3,3,7]{3,2,1,0}, u8[0]{0}) custom-call(%i, %c), custom_call_target="__cudnn$convBackwardFilter", dim_labels=b01f_01io->b01f
ROOT %t = (f32[5,16,8]{2,1,0}) tuple(%g)""",
        """%body (a: bf16[5,16,32], b: bf16[5,32,8]) -> f32[5,16,8] {
  %a = bf16[5,16,32]{2,1,0} parameter(0)
  %b = bf16[5,32,8]{2,1,0} parameter(1)
  ROOT %dot = f32[5,16,8]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}
}
""",
    )
    found = kernels(module)
    product, image = 2 * 5 * 16 * 8 * 32, 2 * (2 * 7 * 7 * 7) * (3 * 3 * 3)
    flops = {name: kernel.flops for name, kernel in found.items()}
    assert flops == {"g": product, "l": product, "c": image, "d": image, "e": image}
    assert found["g"].product_type == "bf16"
    assert found["l"].written == 5 * 16 * 8 * 4  # Its 4096 bytes of scratch are no result.


def attention(target, results):
    return entry(f"""%q = bf16[2,50,3,64]{{3,2,1,0}} parameter(0)
%k = bf16[2,40,3,64]{{3,2,1,0}} parameter(1)
ROOT %a = ({results}, u8[0]{{0}}) custom-call(%q, %k, %k), custom_call_target="{target}", backend_config={{"cudnn_fmha_backend_config": {{"intermediate_tensor_shape": {{"element_type": "BF16", "dimensions": ["2", "3", "50", "40"]}}}}}}""")


def test_fused_attention_multiplies_twice_forward_and_five_times_backward():
    product = 2 * 2 * 3 * 50 * 40 * 64
    forward = attention("__cudnn$fmhaSoftmax", "bf16[2,3,50,64]{3,1,2,0}")
    backward = attention("__cudnn$fmhaSoftmaxBackward", "bf16[2,3,50,64]{3,1,2,0}")
    assert kernels(forward)["a"].flops == 2 * product
    assert kernels(backward)["a"].flops == 5 * product


def test_a_call_says_its_operations_or_is_named_as_unknown():
    call = '%{0} = f32[4]{{0}} custom-call(%x), custom_call_target="{0}", backend_config={1}\n'
    module = entry(
        "%x = f32[4]{0} parameter(0)\n"
        + call.format("pallas", '{"cost_estimate":{"flops":1234}}')
        + call.format("mystery", "{}")
        + call.format("Sharding", "{}")
    )
    found = {name: (k.flops, k.unknown) for name, k in kernels(module).items()}
    assert found == {"pallas": (1234, False), "mystery": (0, True)}


LOOPS = (Path(__file__).parent / "round.hlo").read_text()
"""A round whose clients start in a loop, with a model that scans over its layers."""


def test_the_loop_over_steps_is_the_innermost_with_products_outside_the_model():
    place = step_loop(read_module(LOOPS))
    assert (place.instruction.name, place.loops) == ("steps", ("round",))


def test_a_program_without_such_a_loop_is_refused():
    with pytest.raises(ValueError, match="no loop that holds a product"):
        step_loop(entry("ROOT %x = f32[4]{0} parameter(0)"))


def test_loops_multiply_and_a_conditional_counts_as_its_dearest_branch():
    module = read_module(LOOPS)
    cost = total(kernels_of(module, "step"), CEILING)
    # Each of 12 turns: the condition, and a product [4, 4] x [4, 4] read once, since both operands
    # are the same array. Then the predicate, two negations, and one more product.
    assert cost.kernels == 12 * 2 + 1 + 2 + 1
    assert cost.bytes == 13 * 128 + 12 * 1 + 1 + 2 * 128
    assert cost.flops == 13 * 128
    # At 1 GB/s all that moves takes longer than its products at 100 GFLOP/s.
    assert cost.seconds == pytest.approx(cost.bytes / 1e9)
    assert cost.flop_seconds == pytest.approx(cost.flops / 1e11)


def test_a_kernel_takes_the_longer_of_moving_and_multiplying():
    (kernel,) = kernels_of(read_module(LOOPS), "layer")
    slow = Ceiling(1e9, {"f32": 1e8})
    assert slow.seconds(kernel) == pytest.approx(128 / 1e8)
    assert CEILING.seconds(kernel) == pytest.approx(128 / 1e9)


def test_what_the_host_reads_and_what_devices_exchange_is_found_with_the_loops_around_it():
    places = list(walk(read_module(LOOPS)))
    reads = [(p.instruction.name, p.loops) for p in host_reads(places)]
    assert reads == [
        ("round", ()),
        ("starts", ("round",)),
        ("steps", ("round",)),
        ("c", ("round", "steps")),
    ]
    assert [p.instruction.name for p in collectives(places)] == ["s", "ar"]


def test_what_lies_on_the_chip_moves_nothing():
    module = entry("""%x = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
%near = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} negate(bf16[8,128]{1,0:T(8,128)(2,1)} %x)
ROOT %far = bf16[8,128]{1,0:T(8,128)(2,1)} negate(bf16[8,128]{1,0:T(8,128)(2,1)S(1)} %near)""")
    found = {name: (k.read, k.written) for name, k in kernels(module).items()}
    assert found == {"near": (2048, 0), "far": (0, 2048)}


@pytest.mark.parametrize("own", [0, 1])
def test_each_instruction_knows_the_lines_that_asked_for_it(own):
    # Some versions of XLA write parents one too high, so that a first frame is its own parent.
    module = read_module(f"""HloModule m

FileNames
1 "a.py"
2 "b.py"

FunctionNames
1 "outer"
2 "inner"

FileLocations
1 {{file_name_id=1 function_name_id=1 line=7 end_line=7 column=1 end_column=2}}
2 {{file_name_id=2 function_name_id=2 line=8 end_line=8 column=1 end_column=2}}

StackFrames
1 {{file_location_id=1 parent_frame_id={own}}}
2 {{file_location_id=2 parent_frame_id={1 + own}}}

ENTRY %main (x: f32[4]) -> f32[4] {{
  ROOT %x = f32[4]{{0}} negate(%x), metadata={{op_name="jit(f)/neg" stack_frame_id=2}}
}}
""")
    (instruction,) = module.computations["main"]
    assert module.places_of(instruction) == ("b.py:inner", "a.py:outer")
    assert instruction.op_name == "jit(f)/neg"


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        read_module("HloModule m\n")
