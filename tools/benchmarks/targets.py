"""Accelerators that a round can be compiled for, and what they reach: every figure in one place.

Sources:

- Memory, cores, caches, clocks and bandwidth of GPUs: the target configurations of XLA
  (openxla/xla, xla/backends/gpu/target_config/specs: h100_sxm, h200, b200).
- Products of GPUs, dense: data sheets of NVIDIA H100 (SXM5), H200 (SXM) and B200 (HGX): 989, 989
  and 2250 TFLOP/s in bfloat16, half of it in TF32, in which float32 products are computed.
- TPUs: pages "TPU v5e", "TPU v6e" and "TPU v5p" of the Cloud TPU documentation: 197, 918 and 459
  TFLOP/s, 16, 32 and 95 GB, 819, 1640 and 2765 GB/s a chip. Float32 products are computed in
  bfloat16, unless more precision is asked for.

Nothing runs at the rates of a data sheet. A bound takes the shares of them below, which large
products and large copies of an H200 reach: 790 TFLOP/s and 4.0 TB/s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from tools.benchmarks.hlo_costs import Ceiling

REACHED_FLOPS, REACHED_BANDWIDTH = 0.8, 5 / 6
"""Shares of a data sheet's rates that the best kernels reach."""


@dataclass(frozen=True)
class Target:
    """One device.

    Attributes:
        platform: As jax calls it.
        memory: Bytes.
        bandwidth: Bytes a second of its data sheet.
        bf16, f32: Operations a second of its data sheet, by type of the products.
        description: What the compiler of GPUs is told; empty for TPUs, which it knows.
    """

    platform: Literal["cuda", "tpu"]
    memory: float
    bandwidth: float
    bf16: float
    f32: float
    description: Mapping[str, int | float | str] = field(default_factory=dict)

    @property
    def ceiling(self) -> Ceiling:
        """What kernels reach on it."""
        peaks = {"f32": self.f32, "bf16": self.bf16, "f16": self.bf16}
        reached = {dtype: REACHED_FLOPS * peak for dtype, peak in peaks.items()}
        return Ceiling(REACHED_BANDWIDTH * self.bandwidth, reached)

    def text_proto(self) -> str:
        """The target configuration that XLA's compiler for GPUs reads."""
        info = {
            **_EVERY_GPU,
            **{key: value for key, value in self.description.items() if key != "name"},
            "memory_bandwidth": int(self.bandwidth),
            "device_memory_size": int(self.memory),
        }
        lines = "\n".join(f"  {key}: {value}" for key, value in info.items())
        return (
            f"gpu_device_info {{\n{lines}\n}}\n"
            'platform_name: "CUDA"\n'
            "dnn_version_info { major: 9 minor: 10 }\n"
            f'device_description_str: "{self.description["name"]}"\n'
        )


_EVERY_GPU: dict[str, int | float | str] = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "shared_memory_per_core": 233472,
    "threads_per_core_limit": 2048,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "shared_memory_per_block_optin": 232448,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
}

_HOPPER: dict[str, int | float | str] = {
    "core_count": 132,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
    "cuda_compute_capability": "{ major: 9 feature_extension: ACCELERATED_FEATURES }",
}
_BLACKWELL: dict[str, int | float | str] = {
    "core_count": 148,
    "l2_cache_size": 132644864,
    "clock_rate_ghz": 1.965,
    "cuda_compute_capability": "{ major: 10 feature_extension: ACCELERATED_FEATURES }",
}

TARGETS = MappingProxyType(
    {
        "h100": Target(
            "cuda", 84.942979072e9, 3.35232e12, 989e12, 494e12, {"name": "NVIDIA H100", **_HOPPER}
        ),
        "h200": Target(
            "cuda", 151.397597184e9, 4.8e12, 989e12, 494e12, {"name": "NVIDIA H200", **_HOPPER}
        ),
        "b200": Target(
            "cuda",
            191.514411008e9,
            7.67232e12,
            2250e12,
            1125e12,
            {"name": "NVIDIA B200", **_BLACKWELL},
        ),
        "v5e": Target("tpu", 16e9, 0.819e12, 197e12, 197e12),
        "v6e": Target("tpu", 32e9, 1.64e12, 918e12, 918e12),
        "v5p": Target("tpu", 95e9, 2.765e12, 459e12, 459e12),
    }
)


def target_of(name: str) -> Target:
    """The target of a name: a GPU's, or a TPU slice's such as ``v5e:2x2``.

    Raises:
        ValueError: If it is neither.
    """
    kind, _, slice_shape = name.partition(":")
    target = TARGETS.get(kind)
    if target is None or bool(slice_shape) != (target.platform == "tpu"):
        known = ", ".join(n if t.platform == "cuda" else f"{n}:2x2" for n, t in TARGETS.items())
        raise ValueError(f"{name!r} is not known; known: {known} (or a TPU slice of another shape)")
    return target
