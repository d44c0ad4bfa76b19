"""The values of a plan: cases, a change that is proposed, and all of it as plain values for JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

from mvd_ds.config import LearningRecipe
from mvd_ds.tools.machine.devices import Machine
from mvd_ds.tools.plan.memory import MemoryEstimate
from mvd_ds.tools.plan.timing import StepTime, cores_needed


class Case(NamedTuple):
    """The memory and the time of one recipe on a number of GPUs.

    Attributes:
        recipe: the recipe, with the micro batch that the number of GPUs allows.
        steps: number of optimizer steps until the end.
    """

    recipe: LearningRecipe
    machine: Machine
    gpus: int
    memory: MemoryEstimate
    time: StepTime
    steps: int
    clip_flops: int
    decode_milliseconds: float

    @property
    def fits(self) -> bool:
        """Return whether its peak is within the device's memory."""
        return self.memory.device_bytes <= self.machine.device.memory_gib * 2**30

    @property
    def clips_per_second(self) -> float:
        """Return the clips/s of all GPUs together."""
        return self.recipe.batch.global_ / self.time.total

    @property
    def mfu(self) -> float:
        """Return the model FLOPs over the datasheet's rate; recomputation does not count."""
        return self.clips_per_second / self.gpus * self.clip_flops / (self.machine.device.bf16_tflops * 1e12)

    @property
    def hours(self) -> float:
        """Return the hours until the end, without checkpoints and restarts."""
        return self.steps * self.time.total / 3600

    @property
    def cores_per_node(self) -> float:
        """Return the CPU cores of a node that decode as many clips as its devices take when data never makes them wait."""
        share = min(self.gpus, self.machine.gpus_per_node) / self.gpus
        return cores_needed(self.recipe, self.recipe.batch.global_ / self.time.device * share, self.decode_milliseconds)

    def as_json(self) -> dict[str, Any]:
        """Return every number, with its unit in its name."""
        accumulation = self.recipe.batch.accumulation_steps(self.gpus)
        return {
            "gpus": self.gpus,
            "engine_config": self.recipe.engine.config,
            "batch": {"micro": self.recipe.batch.micro, "accumulation": accumulation, "global": self.recipe.batch.global_},
            "fits": self.fits,
            "device_bytes": {"total": self.memory.device_bytes, **self.memory.device},
            "host_bytes_per_node": {"total": self.memory.host_bytes, **self.memory.host},
            "step_seconds": {
                "total": self.time.total,
                "compute": self.time.compute,
                "communication": self.time.communication,
                "visible_communication": self.time.visible_communication,
                "visible_data": self.time.visible_data,
                **{name: value for name, value in self.time._asdict().items() if name != "overlaps"},
            },
            "clips_per_second": self.clips_per_second,
            "mfu": self.mfu,
            "steps": self.steps,
            "hours": self.hours,
            "gpu_hours": self.hours * self.gpus,
            "loader_cores_per_node": self.cores_per_node,
        }


class Change(NamedTuple):
    """Settings that replace those of the recipe, and the case with them."""

    overrides: list[str]
    case: Case


class Plan(NamedTuple):
    """The plan of a recipe, as page and JSON show it.

    Attributes:
        case: the case that was asked for; None if no micro batch divides the global batch on that number of GPUs.
        configs: cases with every engine config on that number, the best first.
        change: settings that make it fit if it does not, or faster if it does; None if there are none.
        larger_micro: a larger micro batch, if most of a device's memory is idle; None if there is none.
        scaling: cases from 1 to 1,024 GPUs.
        admissible: numbers of GPUs up to 1,024 on which the recipe's own micro batch divides the global batch.
        nearest: where there is no case, the next lower and higher numbers of GPUs that have one, those that exist.
        notes: sentences on what was assumed.
    """

    name: str
    gpus: int
    case: Case | None
    configs: list[Case]
    change: Change | None
    larger_micro: Change | None
    scaling: list[Case]
    admissible: list[int]
    nearest: list[int]
    notes: list[str]

    @property
    def smaller_micro(self) -> int | None:
        """Return the micro batch of the plan if the recipe's own does not divide the global batch, else None."""
        return self.case.recipe.batch.micro if self.case is not None and self.gpus not in self.admissible else None


def plan_json(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Return the plan as plain values."""
    return {
        "recipe": plan.name,
        "gpus": plan.gpus,
        "device": machine.device.model_dump(),
        "network_bytes_per_second_per_node": machine.network,
        "assumed_efficiency": machine.efficiency,
        "notes": plan.notes,
        "case": plan.case.as_json() if plan.case else None,
        "engine_configs": [case.as_json() for case in plan.configs],
        "change": _change_json(plan.change),
        "larger_micro": _change_json(plan.larger_micro),
        "scaling": [case.as_json() for case in plan.scaling],
        "admissible_gpus": plan.admissible,
        "nearest_gpus": plan.nearest,
    }


def _change_json(change: Change | None) -> dict[str, Any] | None:
    return None if change is None else {"overrides": change.overrides, "case": change.case.as_json()}
