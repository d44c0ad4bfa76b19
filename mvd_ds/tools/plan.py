"""``plan``: memory, time and cost of a recipe on so many GPUs, before anything is started.

Memory and times are formulas, said with their sources where they stand; what is assumed and not measured is said on the page.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.config.base import ENGINE_FOLDER
from mvd_ds.tools.plan_devices import Machine
from mvd_ds.tools.plan_memory import Memory, plan_memory
from mvd_ds.tools.plan_sizes import RecipeSizes, recipe_sizes
from mvd_ds.tools.plan_time import StepTime, cores_needed, plan_time
from mvd_ds.training.engine_config import student_config, teacher_config

#: Clips an epoch of Kinetics-400 has, of which some are gone from the web by now. Source: MVD.
KINETICS_CLIPS = 240_436
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Case(NamedTuple):
    """One recipe on so many GPUs.

    Attributes:
        recipe: with the micro batch that the number of GPUs allows.
        steps: optimizer steps until the end.
    """

    recipe: TrainingRecipe
    machine: Machine
    gpus: int
    memory: Memory
    time: StepTime
    steps: int
    clip_flops: int
    decode_milliseconds: float

    @property
    def fits(self) -> bool:
        """Whether its peak is within the device's memory."""
        return self.memory.device_bytes <= self.machine.device.memory_gib * 2**30

    @property
    def clips_per_second(self) -> float:
        """Of all GPUs together."""
        return self.recipe.batch.global_ / self.time.total

    @property
    def mfu(self) -> float:
        """Model FLOPs over the datasheet's rate; recomputation does not count."""
        return self.clips_per_second / self.gpus * self.clip_flops / (self.machine.device.bf16_tflops * 1e12)

    @property
    def hours(self) -> float:
        """Until the end, without checkpoints and restarts."""
        return self.steps * self.time.total / 3600

    @property
    def cores_per_node(self) -> float:
        """CPU cores that decode what the devices of a node would take if data never made them wait."""
        share = min(self.gpus, self.machine.gpus_per_node) / self.gpus
        return cores_needed(self.recipe, self.recipe.batch.global_ / self.time.device * share, self.decode_milliseconds)

    def as_json(self) -> dict[str, Any]:
        """Every number, with its unit in its name."""
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


class Plan(NamedTuple):
    """What is told.

    Attributes:
        case: what was asked; None where no micro batch divides the global batch on so many GPUs.
        configs: every engine config at that number, the best first.
        remedies: settings with which it fits, and the case; None if it fits as it is, or nothing helps.
        scaling: from 1 to 1,024 GPUs.
        admissible: numbers of GPUs up to 1,024 on which the recipe's own micro batch divides the global batch.
        notes: what was assumed.
    """

    name: str
    gpus: int
    case: Case | None
    configs: list[Case]
    remedy: tuple[list[str], Case] | None
    scaling: list[Case]
    admissible: list[int]
    notes: list[str]


class Planner:
    """Cases of one recipe on one kind of machine.

    Args:
        overrides: ``key=value`` of the user.
        clips: of an epoch, None to count the manifest.
    """

    def __init__(self, name: str, overrides: list[str], machine: Machine, clips: int | None, decode_milliseconds: float) -> None:
        self.name, self.overrides, self.machine, self.decode_milliseconds = name, overrides, machine, decode_milliseconds
        self.recipe = self.load([])
        self.sizes: RecipeSizes = recipe_sizes(self.recipe)
        self.notes: list[str] = []
        self.clips = clips or self._count_clips()

    def load(self, changes: list[str]) -> TrainingRecipe:
        """The recipe with more overrides.

        Raises:
            ConfigError: if they are wrong, or it is not a recipe of pretrain or distill.
        """
        recipe = load_recipe(self.name, [*self.overrides, *changes])
        if not isinstance(recipe, TrainingRecipe):
            raise ConfigError(f"{self.name}: objective {recipe.objective} has no plan; those of pretrain and distill have")
        return recipe

    def _count_clips(self) -> int:
        """Clips of an epoch: the manifests', or Kinetics' where one of them is not here yet.

        Raises:
            ConfigError: for a manifest that is here and faulty, or holds less than a batch.
        """
        from mvd_ds.data.mixture import read_mixture

        data = self.recipe.data
        paths = [source.manifest for source in data.sources] or [data.manifest]
        missing = [path for path in paths if not Path(path).expanduser().exists()]
        if missing:
            self.notes.append(f"{missing[0]} is not here: {KINETICS_CLIPS:,} clips an epoch assumed; --clips says otherwise")
            return KINETICS_CLIPS
        clips = sum(len(manifest.refs) for manifest in read_mixture(data).manifests) * data.clips_per_video
        if clips < self.recipe.batch.global_:
            raise ConfigError(f"{paths[0]}: {clips} clips are fewer than batch.global {self.recipe.batch.global_}")
        return clips

    def case(self, gpus: int, recipe: TrainingRecipe | None = None) -> Case | None:
        """The recipe on ``gpus``, with the largest micro batch up to its own that divides the global batch; None without one."""
        recipe = _with_micro(recipe or self.recipe, gpus)
        if recipe is None:
            return None
        engine = student_config(recipe, gpus, self.sizes.student.block)
        teachers = {
            name: teacher_config(recipe, recipe.teachers[name].placement, teacher.block)
            for name, teacher in self.sizes.teachers.items()
            if recipe.teachers[name].placement != "replicated"
        }
        memory = plan_memory(recipe, self.sizes, engine, teachers, gpus, self.machine.gpus_per_node)
        time = plan_time(recipe, self.sizes, engine, teachers, self.machine, gpus, self.decode_milliseconds)
        steps = recipe.schedule.last_step(max(self.clips // recipe.batch.global_, 1))
        flops = self.sizes.flops.training
        return Case(recipe, self.machine, gpus, memory, time, steps, flops, self.decode_milliseconds)

    def configs(self, gpus: int) -> list[Case]:
        """Every engine config for students at ``gpus``; those that fit first, then the fastest, then the smallest."""
        found = [self.case(gpus, self.load([f"engine.config={name}"])) for name in student_configs()]
        return sorted(filter(None, found), key=lambda case: (not case.fits, round(case.time.total, 3), case.memory.device_bytes))

    def remedy(self, gpus: int) -> tuple[list[str], Case] | None:
        """The settings that make it fit and cost least time; among equals the fewest."""
        best: tuple[tuple[float, int], list[str], Case] | None = None
        for changes in self._changes():
            case = self.case(gpus, self.load(changes))
            if case is None or not case.fits:
                continue
            rank = (round(case.time.total, 3), len(changes))
            if best is None or rank < best[0]:
                best = rank, changes, case
        return None if best is None else (best[1], best[2])

    def _changes(self) -> list[list[str]]:
        """All combinations of what saves memory."""
        micro = self.recipe.batch.micro
        choices: list[list[list[str]]] = [
            [[], *([f"engine.config={name}"] for name in student_configs() if name != self.recipe.engine.config)],
            [[], ["model.activation_checkpointing=1"]] if self.recipe.model.activation_checkpointing != 1 else [[]],
            [[]] + [[f"batch.micro={smaller}"] for smaller in (micro // 2, micro // 4, 1) if self._may_be(smaller)],
        ]
        if self.recipe.teachers:
            names = list(self.recipe.teachers)
            sharded = [f"teachers.{n}.placement=zero3" for n in names if self.recipe.teachers[n].network is None]
            chunks = [f"teachers.{name}.chunk_clips={max(micro // 4, 1)}" for name in names]
            choices += [[[], sharded], [[], chunks]]
        combined = ([change for part in parts for change in part] for parts in itertools.product(*choices))
        return sorted(combined, key=len)[1:]

    def _may_be(self, micro: int) -> bool:
        batch = self.recipe.batch
        return 0 < micro < batch.micro and batch.global_ % micro == 0 and micro % self.recipe.data.clips_per_video == 0

    def plan(self, gpus: int) -> Plan:
        """Everything at ``gpus``, and the way up to 1,024."""
        case = self.case(gpus)
        scaling = [found for count in sorted({*COUNTS, gpus}) if (found := self.case(count)) is not None]
        remedy = self.remedy(gpus) if case is not None and not case.fits else None
        return Plan(self.name, gpus, case, self.configs(gpus), remedy, scaling, admissible_counts(self.recipe), self.notes)


def student_configs() -> list[str]:
    """Names of the engine configs for students in ds_configs/."""
    return sorted(path.name for path in ENGINE_FOLDER.glob("*.json") if not path.name.startswith("teacher"))


def admissible_counts(recipe: TrainingRecipe, highest: int = 1024) -> list[int]:
    """Numbers of GPUs on which the recipe's micro batch divides its global batch."""
    batch = recipe.batch
    return [count for count in range(1, highest + 1) if batch.global_ % (batch.micro * count) == 0]


def _with_micro(recipe: TrainingRecipe, gpus: int) -> TrainingRecipe | None:
    """``recipe`` with the largest micro batch up to its own that works on ``gpus``, None without one."""
    batch, share = recipe.batch, recipe.data.clips_per_video
    for micro in range(batch.micro, 0, -1):
        if micro % share == 0 and batch.global_ % (micro * gpus) == 0:
            return (
                recipe if micro == batch.micro else recipe.model_copy(update={"batch": batch.model_copy(update={"micro": micro})})
            )
    return None


def make_plan(
    name: str, overrides: list[str], gpus: int, machine: Machine, clips: int | None, decode_milliseconds: float
) -> Plan:
    """The plan of a recipe.

    Raises:
        ConfigError: for whatever is wrong in the recipe.
    """
    return Planner(name, overrides, machine, clips, decode_milliseconds).plan(gpus)


def write_plan(plan: Plan, machine: Machine, json_file: Path | None, plot_file: Path | None) -> int:
    """Print the page, write what was asked for; 1 where it neither fits nor runs, else 0."""
    from mvd_ds.tools.plan_page import plot_scaling, print_plan
    from mvd_ds.training.run_folder import write_json

    print_plan(plan, machine)
    if json_file is not None:
        write_json(json_file, plan_json(plan, machine))
    if plot_file is not None:
        plot_scaling(plan, machine, plot_file)
    return 0 if plan.case is not None and plan.case.fits else 1


def plan_json(plan: Plan, machine: Machine) -> dict[str, Any]:
    """The plan as plain values."""
    return {
        "recipe": plan.name,
        "gpus": plan.gpus,
        "device": machine.device.model_dump(),
        "network_bytes_per_second_per_node": machine.network,
        "assumed_efficiency": machine.efficiency,
        "notes": plan.notes,
        "case": plan.case.as_json() if plan.case else None,
        "engine_configs": [case.as_json() for case in plan.configs],
        "remedy": {"overrides": plan.remedy[0], "case": plan.remedy[1].as_json()} if plan.remedy else None,
        "scaling": [case.as_json() for case in plan.scaling],
        "admissible_gpus": plan.admissible,
    }
