"""The memory of a run, measured from the tensors that engines hold and from what the process has taken, not from formulas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.engine_shards import adam, flats
from mvd_ds.training.engine.protocol import Engine

GIB = 2**30


class MemoryMonitor:
    """The memory of a run's phases (build, resume, step, save), by part and peak, each reported once.

    Peaks are what torch has allocated on a GPU, what is resident on the CPU. Of all ranks the largest is told.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.untold: dict[str, dict[str, float]] = {}
        self.told: set[str] = set()
        self.largest = 0.0
        self.engine: Engine | None = None
        self.teachers: Mapping[str, Any] = {}
        self.data_bytes = 0
        self.base, self.state_before = _now_and_peak(cluster.device)[0], 0

    def watch(self, engine: Engine, teachers: Mapping[str, Any] | None = None) -> None:
        """Measure the parts of ``engine`` and ``teachers`` from here on; call ``mark`` when they are built."""
        self.engine, self.teachers = engine, teachers or {}

    def holds(self, data_bytes: int) -> None:
        """Note how many bytes the batches take that this process holds."""
        self.data_bytes = max(self.data_bytes, data_bytes)

    def mark(self, phase: str) -> float:
        """Count the peak since the last mark for ``phase``; one in several pieces has the largest, until it is reported.

        Returns:
            that peak, GiB.
        """
        now, peak = _now_and_peak(self.cluster.device)
        self.largest = max(self.largest, peak / GIB)
        if phase not in self.told:
            found = self.untold.setdefault(phase, {})
            if self.engine is not None:
                found |= self._parts(peak, "activations" if phase == "step" else "temporaries")
            found["peak"] = max(found.get("peak", 0.0), peak / GIB)
        self.base = now
        return peak / GIB

    def _parts(self, peak: int, rest: str) -> dict[str, float]:
        """Return GiB by part, and under ``rest`` what was taken above them: activations, gathered weights, temporaries."""
        held = state_bytes(self.engine, self.teachers) if self.engine is not None else {}
        parts = {**held, "data": self.data_bytes}
        above = peak - self.base - (sum(parts.values()) - self.state_before)
        self.state_before = sum(parts.values())
        return {name: size / GIB for name, size in {**parts, rest: max(above, 0)}.items()}

    def tell(self) -> dict[str, float]:
        """Return metrics after some steps: the largest peak so far, and phases not reported yet. Collective."""
        if "step" not in self.told and self.engine is not None:
            self.mark("step")
        _, peak = _now_and_peak(self.cluster.device, reset=False)
        self.largest = max(self.largest, peak / GIB)
        largest = {"memory/peak_gib": self.largest}
        return largest | self.tell_phases() if self.untold else largest

    def tell_phases(self) -> dict[str, float]:
        """Return the metrics of phases not reported yet; empty if there are none. Collective."""
        if not self.untold:
            return {}
        values = {f"memory/{phase}_{part}_gib": size for phase, found in self.untold.items() for part, size in found.items()}
        self.told |= self.untold.keys()
        self.untold = {}
        gathered = self.cluster.gather(values)
        return {name: max(other[name] for other in gathered) for name in values}


def _now_and_peak(device: torch.device, reset: bool = True) -> tuple[int, int]:
    """Return the bytes taken now, and the most since the last reset."""
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
    """Let the highest resident size begin anew; return False where the system does not allow it, as some containers do not."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def resident_bytes(field: str = "VmRSS") -> int:
    """Return this process's resident bytes; with ``VmHWM``, the most there were."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def state_bytes(engine: Engine, teachers: Mapping[str, Any]) -> dict[str, int]:
    """Return the bytes of state on this rank, each storage counted once, in the first part that has it.

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
        "masters": _bytes(flats(engine), seen),
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


def _gradients(engine: Engine, parameters: list[Any]) -> Iterable[Any]:
    """Yield the accumulated gradients, wherever the stage keeps them."""
    optimizer = engine.optimizer
    yield getattr(optimizer, "grad_partitions_flat_buffer", None)
    for groups in (getattr(optimizer, "averaged_gradients", {}), getattr(optimizer, "grad_accum_buffers", {})):
        for group in groups.values() if isinstance(groups, dict) else ():
            yield from group or ()
    yield from (master.grad for master in flats(engine))
    yield from (parameter.grad for parameter in parameters)


def _buckets(optimizer: Any) -> Iterable[Any]:
    """Yield the buffers that gradients are gathered in before they are reduced."""
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
