"""The plan of several students that learn from one pass of the teachers, out of the plans of each alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mvd_ds.config import TrainingRecipe
from mvd_ds.runs.student import recipe_flops, students_flops
from mvd_ds.tools.plan.memory import CONTEXT_BYTES, FRAGMENTATION, MemoryEstimate
from mvd_ds.tools.plan.timing import StepTime

#: Parts of memory that every student has of its own; of activations one student's are there at a time, and the rest is common.
_OWN_PARTS = ("weights, gradients, optimizer", "live and buckets", "moving average")
#: Parts of a step that are there once, however many students there are.
_COMMON_TIMES = ("teachers", "teacher_communication", "copies", "data")


def memory_together(alone: Sequence[MemoryEstimate], teacher_build_bytes: float) -> MemoryEstimate:
    """Return the memory of students that share teachers, clips and a GPU.

    Args:
        alone: of each of them by itself.
        teacher_build_bytes: of a node's memory, what its processes take to build the teachers.
    """
    device = {}
    for part in dict.fromkeys(part for each in alone for part in each.device):  # not each student keeps an average
        values = [each.device.get(part, 0.0) for each in alone]
        device[part] = sum(values) if part in _OWN_PARTS else max(values)
    device["fragmentation"] = FRAGMENTATION * (sum(device.values()) - device["fragmentation"] - CONTEXT_BYTES)
    host = {part: max(each.host[part] for each in alone) for part in alone[0].host}
    host["building the networks"] = (
        sum(each.host["building the networks"] for each in alone) - (len(alone) - 1) * teacher_build_bytes
    )
    host["offloaded"] = sum(each.host["offloaded"] for each in alone)
    return MemoryEstimate(device, host)


def time_together(every: StepTime, alone: Sequence[StepTime]) -> StepTime:
    """Return the seconds of a step in which the students of a GPU learn from the same pass of the teachers.

    Args:
        every: a step of which all GPUs share the clips, as they do those of the teachers.
        alone: of each student by itself on the GPUs that it has.
    """
    values = {
        name: every._asdict()[name] if name in _COMMON_TIMES else sum(each._asdict()[name] for each in alone)
        for name in StepTime._fields
        if name != "overlaps"
    }
    return StepTime(**values, overlaps=all(each.overlaps for each in alone))


def on_the_fullest_gpu(
    ranks: Mapping[str, range], alone: Mapping[str, tuple[MemoryEstimate, StepTime]], every: StepTime, teacher_build_bytes: float
) -> tuple[MemoryEstimate, StepTime]:
    """Return memory and time of the GPUs that have most to hold, and most to do, of students that may own some.

    Args:
        ranks: the GPUs of every student, by name.
        alone: of each by itself on those.
        every, teacher_build_bytes: as of ``time_together`` and ``memory_together``.
    """
    gpus = sorted({gpu for own in ranks.values() for gpu in own})
    beside = {tuple(key for key, own in ranks.items() if gpu in own) for gpu in gpus}
    memories = [memory_together([alone[key][0] for key in keys], teacher_build_bytes) for keys in beside]
    times = [time_together(every, [alone[key][1] for key in keys]) for keys in beside]
    return max(memories, key=lambda each: each.device_bytes), max(times, key=lambda each: each.total)


def worth_of_sharing(together: StepTime, alone: Mapping[str, tuple[TrainingRecipe, StepTime]]) -> str:
    """Return a sentence on what students save by learning together.

    Args:
        alone: recipe and step of every student by itself, by name.
    """
    seconds = {name: time.total for name, (_, time) in alone.items()}
    recipes = [recipe for recipe, _ in alone.values()]
    counted = students_flops(recipes) / sum(recipe_flops(recipe).training for recipe in recipes)
    own = ", ".join(f"{name} {each:.4f} s" for name, each in seconds.items())
    return (
        f"students learn from one pass of the teachers: {together.total / sum(seconds.values()):.2f} of the time of steps of "
        f"their own ({own}), {counted:.2f} of the operations"
    )
