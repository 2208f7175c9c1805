"""Which part of a round a kernel belongs to, from the Python that asked for it.

A fusion is counted where its last operation comes from; what the compiler has fused into it from
other parts is counted there too.
"""

import re

from tools.benchmarks.hlo_costs import Kernel

_PARTS = (
    # (part, what the name or a line's place shows); the first that is found counts.
    ("attention", r"models/attention\.py|dot_product_attention|/(qkv|proj)/"),
    ("mlp", r"/(fc1|fc2)/|layers\.py:_?gelu"),
    ("norm", r"/\w*norm\w*/|layers\.py:\w*[nN]orm"),
    ("patches and positions", r"patch_embed|_embed\b|place_tokens|/embed/|/predict/"),
)
_BEYOND = (
    ("model", r"benchmarks/federations\.py|/models/"),
    ("optimiser", r"optax/|train/optimizers\.py|trees\.py|/algorithms?[/.]"),
    ("loss", r"ops/losses\.py"),
    ("augmentation and masking", r"/ops/|/objectives/"),
    ("batch", r":_batch|fed/keys\.py"),
    ("lanes", r"/fed/"),
)
OTHER = "other"


def part_of(kernel: Kernel) -> str:
    """The part of a kernel: ``encoder attention``, ``optimiser``, ``augmentation``, ..."""
    name, places = kernel.instruction.op_name, kernel.places
    text = " ".join((name, *places))
    half = re.search(r"/(encoder|decoder)/", name)
    if half:
        return f"{half[1]} {_first(_PARTS, text) or OTHER}"
    # From the line itself outwards: all lines lie inside the loop of the lanes in the end.
    return next((part for place in (name, *places) if (part := _first(_BEYOND, place))), OTHER)


def _first(parts: tuple[tuple[str, str], ...], text: str) -> str:
    return next((part for part, pattern in parts if re.search(pattern, text)), "")
