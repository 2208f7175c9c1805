"""Compiles rounds for accelerators that are not there, where their compiler is installed."""

import sys
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from tools.benchmarks.compile_work import Work, abstract_round
from tools.benchmarks.peers.process import Message, serve
from tools.benchmarks.targets import target_of


def compile_round(target: str, text: str, **work: Any) -> Message:
    """Compiles one round, and writes the program's text to the file ``text``.

    Returns:
        Bytes of a device by part, seconds, and the sizes of the plan; ``unprintable`` says why
        there is no text.
    """
    asked = Work(**work | {"changes": tuple(work["changes"])})
    round_ = abstract_round(asked, _devices(target, asked.devices), target_of(target).memory)
    schedule, federation = round_.plan.schedule, round_.federation
    begin = time.perf_counter()
    lowered = round_.lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory: Any = compiled.memory_analysis()
    given = round_.device_bytes()
    once = given | {"images": given["images"] / round_.copies}
    given["plan"] = memory.argument_size_in_bytes - sum(once.values())
    given["working memory"] = (
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    )
    return {
        "memory": given,
        "trace s": traced - begin,
        "compile s": done - traced,
        "batch": federation.batching.batch_size,
        "groups": federation.placement.num_devices,
        "steps": int((schedule.first_step + schedule.num_steps).max()),
        "clients": len(schedule.client),
        "images": int((round_.plan.rows >= 0).sum()),
        "unprintable": _write(compiled, Path(text)),
    }


def _write(compiled: jax.stages.Compiled, file: Path) -> str:
    """Why the program's text cannot be had; '' where it has been written."""
    try:
        file.write_text(compiled.as_text() or "", encoding="utf-8")
    except jax.errors.JaxRuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def _devices(target: str, count: int) -> list[jax.Device]:
    """The devices of a target: so many GPUs of one host, or the first chips of a TPU slice."""
    described = target_of(target)
    if described.platform == "cuda":
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=described.text_proto(), topology=f"1x1x{count}"
        )
    else:
        topology = topologies.get_topology_desc(target, platform="tpu")
    if len(topology.devices) < count:
        raise ValueError(f"{target} has {len(topology.devices)} devices, not {count}")
    return list(topology.devices[:count])


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    serve({"compile": compile_round}, answers)
