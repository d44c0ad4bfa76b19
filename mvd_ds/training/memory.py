"""Where the bytes are: measured from the tensors that engines hold and from what the process has taken, not from formulas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine_shards import adam, masters

GIB = 2**30


class Memory:
    """Peaks of the phases of a run, and the parts of its state, each told once.

    On a GPU what torch has allocated, on the CPU what is resident. Of all ranks the largest is told.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.untold: dict[str, float] = {}
        self.told: set[str] = set()
        self.largest = 0.0
        self.engine: Any = None
        self.teachers: Mapping[str, Any] = {}
        self.base, self.state_before = 0, 0

    def mark(self, phase: str) -> float:
        """The peak since the last mark belongs to ``phase``; of a phase that comes again, the first one counts.

        Returns:
            that peak, GiB.
        """
        now, peak = _now_and_peak(self.cluster.device)
        self.largest = max(self.largest, peak / GIB)
        if phase not in self.told:
            self.told.add(phase)
            self.untold[f"memory/{phase}_peak_gib"] = peak / GIB
        self.base = now
        return peak / GIB

    def watch(self, engine: Any, teachers: Mapping[str, Any]) -> None:
        """Call when all is built, before the first step."""
        self.mark("build")
        self.engine, self.teachers = engine, teachers
        self.state_before = sum(state_bytes(engine, teachers).values())

    def tell(self) -> dict[str, float]:
        """Metrics to write after some steps: the largest peak so far, and once the phases and parts. Collective."""
        if "step" not in self.told and self.engine is not None:
            self._measure_step()
        _, peak = _now_and_peak(self.cluster.device, reset=False)
        self.largest = max(self.largest, peak / GIB)
        values, self.untold = {"memory/peak_gib": self.largest, **self.untold}, {}
        if len(values) == 1:
            return values
        gathered = self.cluster.gather(values)
        return {name: max(other[name] for other in gathered) for name in values}

    def _measure_step(self) -> None:
        """Parts of the state, and what steps took above it: activations, gathered weights, temporaries."""
        before = self.base
        peak = self.mark("step")
        parts = state_bytes(self.engine, self.teachers)
        above = peak * GIB - before - (sum(parts.values()) - self.state_before)
        self.untold |= {f"memory/{name}_gib": size / GIB for name, size in parts.items()}
        self.untold["memory/activations_gib"] = max(above, 0) / GIB


def _now_and_peak(device: torch.device, reset: bool = True) -> tuple[int, int]:
    """Bytes taken now, and the most since the last reset."""
    if device.type == "cuda":
        now, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return now, peak
    now, peak = resident_bytes(), resident_bytes("VmHWM")
    if reset:
        forget_peak()  # where that is forbidden, a phase reads as the largest before it
    return now, peak


def forget_peak() -> bool:
    """Let the highest resident size begin anew; False where the system does not allow it, as some containers do not."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def resident_bytes(field: str = "VmRSS") -> int:
    """Bytes of this process in memory; of ``VmHWM``, the most there were."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def state_bytes(engine: Any, teachers: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of state on this rank, each storage counted once, in the first part that has it.

    Args:
        engine: of ``start_student``.
        teachers: of ``start_teacher``, by name.

    Returns:
        ``weights`` (shards under ZeRO-3), ``masters``, ``optimizer``, ``gradients``, ``buckets``, ``live`` (gathered weights),
        and ``teacher_NAME``.
    """
    parameters = list(engine.module.parameters())
    optimizer = engine.optimizer
    seen: set[int] = set()
    parts = {
        "weights": _bytes((getattr(parameter, "ds_tensor", parameter) for parameter in parameters), seen),
        "masters": _bytes(masters(engine), seen),
        "optimizer": _bytes((value for state in adam(engine).state.values() for value in state.values()), seen),
        "gradients": _bytes(_gradients(engine, parameters), seen),
        "buckets": _bytes(_buckets(optimizer), seen),
        "live": _bytes((p for p in parameters if hasattr(p, "ds_tensor")), seen),
    }
    for name, teacher in teachers.items():
        own = list(getattr(teacher, "module", teacher).parameters())
        shards = [parameter.ds_tensor for parameter in own if hasattr(parameter, "ds_tensor")]
        parts[f"teacher_{name}"] = _bytes([*shards, *own], seen)
    return parts


def _gradients(engine: Any, parameters: list[Any]) -> Iterable[Any]:
    """Accumulated gradients, wherever the stage keeps them."""
    optimizer = engine.optimizer
    yield getattr(optimizer, "grad_partitions_flat_buffer", None)
    for groups in (getattr(optimizer, "averaged_gradients", {}), getattr(optimizer, "grad_accum_buffers", {})):
        for group in groups.values() if isinstance(groups, dict) else ():
            yield from group or ()
    yield from (master.grad for master in masters(engine))
    yield from (parameter.grad for parameter in parameters)


def _buckets(optimizer: Any) -> Iterable[Any]:
    """Buffers that gradients are gathered in before they are reduced."""
    for bucket in getattr(optimizer, "ipg_buckets", {}).values():
        buffer = bucket.buffer
        yield from buffer if isinstance(buffer, list) else (buffer,)


def _bytes(tensors: Iterable[Any], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or not tensor.numel():
            continue
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
