"""The ``plan`` command: it computes memory, time and cost of a recipe on a number of GPUs.

Memory and times are formulas, said with their sources where they stand; what is assumed and not measured is said on the page.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from mvd_ds.config import ConfigError, FinetuneRecipe, LearningRecipe, TrainingRecipe, load_recipe
from mvd_ds.config.base import ENGINE_FOLDER
from mvd_ds.config.inputs import missing_inputs
from mvd_ds.data.manifests.mixture import read_mixture
from mvd_ds.runs.fitting import fit_to_videos, fit_to_weights
from mvd_ds.runs.student import students_flops
from mvd_ds.tools.machine.devices import Machine
from mvd_ds.tools.plan.case import Case, Change, Plan, plan_json
from mvd_ds.tools.plan.memory import MemoryEstimate, plan_memory
from mvd_ds.tools.plan.sizes import CLASSES, RecipeSizes, recipe_sizes, teachers_of
from mvd_ds.tools.plan.students import on_the_fullest_gpu, worth_of_sharing
from mvd_ds.tools.plan.timing import StepTime, plan_time
from mvd_ds.training.engine.deepspeed_start import zero_faults
from mvd_ds.training.engine.engine_config import Place, student_config, teacher_config

#: Number of training videos of Kinetics-400; some have left the web by now. Source: MVD.
KINETICS_CLIPS = 240_436
#: Least share of a step that a proposed change must save: the assumed rates are not more exact.
WORTH_SAYING = 0.03
#: Share of a device's memory up to which a plan calls the rest idle, and up to which it proposes to fill it.
IDLE_SHARE, EASE_SHARE = 0.5, 0.8
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Planner:
    """A maker of cases: one recipe on one kind of machine, with any settings and number of GPUs.

    Args:
        overrides: ``key=value`` of the user.
        clips: number of clips of an epoch; None counts the manifest.
    """

    def __init__(self, name: str, overrides: list[str], machine: Machine, clips: int | None, decode_milliseconds: float) -> None:
        self.name, self.overrides, self.machine, self.decode_milliseconds = name, overrides, machine, decode_milliseconds
        self.notes: list[str] = []
        self.recipe = self.load([])
        alone = _alone(self.recipe)
        self.students = {key: recipe_sizes(own) for key, own in alone.items()}
        self.sizes = next(iter(self.students.values())) if alone else recipe_sizes(self.recipe)
        if isinstance(self.recipe, FinetuneRecipe):
            self._note(f"a head of {CLASSES} classes is assumed; its size hardly matters")
            if self.recipe.teacher is not None:
                self._note("the teacher of the logits is not counted")
        self.clips = clips or self._count_clips()

    def load(self, changes: list[str]) -> LearningRecipe:
        """Return the recipe with more overrides.

        Raises:
            ConfigError: if they are wrong, or the recipe is of a command that trains nothing.
        """
        recipe = load_recipe(self.name, [*self.overrides, *changes])
        if not isinstance(recipe, LearningRecipe):
            raise ConfigError(f"{self.name}: {recipe.objective} has no plan; pretrain, distill and finetune have")
        return self._fitted(recipe) if isinstance(recipe, FinetuneRecipe) and recipe.fit else recipe

    def _fitted(self, recipe: FinetuneRecipe) -> FinetuneRecipe:
        """Return a recipe that fits itself to weights and videos as its run would, if they are here."""
        if missing_inputs(recipe):
            self._note("batch, rate and epochs will be fitted to videos and weights; these are not here, so defaults are planned")
            return recipe
        from mvd_ds.runs.finetune import read_labelled

        fitted = fit_to_weights(recipe)
        fitted = fit_to_videos(fitted, recipe, len(read_labelled(fitted).labels))
        # Fitting chooses the precision of the machine that it runs on, which is not the one that is planned for.
        return fitted.model_copy(update={"engine": recipe.engine})

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _count_clips(self) -> int:
        """Return the clips of an epoch: the manifests', or Kinetics' if a manifest is not here yet.

        Raises:
            ConfigError: for a manifest that is here and faulty, or holds less than a batch.
        """
        data = self.recipe.data
        paths = [source.manifest for source in data.sources] or [data.manifest]
        missing = [path for path in paths if not Path(path).expanduser().exists()]
        if missing:
            self._note(f"{missing[0]} is not here: {KINETICS_CLIPS:,} clips an epoch assumed; --clips says otherwise")
            return KINETICS_CLIPS
        clips = sum(len(manifest.refs) for manifest in read_mixture(data).manifests) * data.clips_per_video
        if clips < self.recipe.batch.global_:
            raise ConfigError(f"{paths[0]}: {clips} clips are fewer than batch.global {self.recipe.batch.global_}")
        return clips

    def case(self, gpus: int, recipe: LearningRecipe | None = None) -> Case | None:
        """Return the case on ``gpus`` with the largest micro batch up to the recipe's that divides the global batch, or None."""
        recipe = _with_micro(recipe or self.recipe, gpus)
        if recipe is None:
            return None
        if alone := _alone(recipe):
            return self._together(gpus, recipe, alone)
        memory, time = self._estimates(gpus, recipe, self.sizes)
        flops = self.sizes.flops.training
        return Case(recipe, self.machine, gpus, memory, time, self._steps(recipe), flops, self.decode_milliseconds)

    def _together(self, gpus: int, recipe: LearningRecipe, alone: dict[str, TrainingRecipe]) -> Case | None:
        """Return the case of all students of a recipe, who share the pass of the teachers; None if one's ranks do not fit."""
        assert isinstance(recipe, TrainingRecipe)
        ranks = {key: recipe.students[key].owners(gpus) for key in alone}
        if any(own.stop > gpus or recipe.batch.global_ % (recipe.batch.micro * len(own)) for own in ranks.values()):
            return None
        estimates = {key: self._estimates(len(ranks[key]), own, self.students[key]) for key, own in alone.items()}
        every = self._estimates(gpus, next(iter(alone.values())), self.sizes)[1]
        node = min(gpus, self.machine.gpus_per_node)
        built = 4.0 * node * sum(teacher.parameters for teacher in self.sizes.teachers.values())
        memory, time = on_the_fullest_gpu(ranks, estimates, every, built)
        steps, flops = max(self._steps(own) for own in alone.values()), students_flops(list(alone.values()))
        return Case(recipe, self.machine, gpus, memory, time, steps, flops, self.decode_milliseconds)

    def _steps(self, recipe: LearningRecipe) -> int:
        return recipe.schedule.last_step(max(self.clips // recipe.batch.global_, 1))

    def _estimates(self, gpus: int, recipe: LearningRecipe, sizes: RecipeSizes) -> tuple[MemoryEstimate, StepTime]:
        """Return memory and time of a recipe with one student."""
        place = Place(gpus, min(gpus, self.machine.gpus_per_node), Path(recipe.engine.nvme_folder or "node-local disk"))
        engine = student_config(recipe, place, sizes.student.thresholds, zero_faults)
        teachers = {
            name: teacher_config(recipe, teachers_of(recipe)[name].placement, place, teacher.thresholds, zero_faults)
            for name, teacher in sizes.teachers.items()
            if teachers_of(recipe)[name].placement != "replicated"
        }
        memory = plan_memory(recipe, sizes, engine, teachers, gpus, self.machine.gpus_per_node)
        time = plan_time(recipe, sizes, engine, teachers, self.machine, gpus, self.decode_milliseconds)
        return memory, time

    def configs(self, gpus: int) -> list[Case]:
        """Return a case for every engine config: those that fit first, then the fastest, then the smallest."""
        found = [self.case(gpus, self.load([f"engine.config={name}"])) for name in student_configs()]
        return sorted(filter(None, found), key=lambda case: (not case.fits, _percent(case.time.total), case.memory.device_bytes))

    def remedy(self, gpus: int) -> Change | None:
        """Return the settings that make the recipe fit at the least time; among equals the fewest."""
        return self._best(gpus, self._smaller())

    def advice(self, case: Case) -> Change | None:
        """Return settings that fit and are faster by more than this rough model can be wrong; None if there are none."""
        found = self._best(case.gpus, self._faster())
        return found if found is not None and found.case.time.total < (1 - WORTH_SAYING) * case.time.total else None

    def larger_micro(self, case: Case) -> Change | None:
        """Return the largest micro batch that a device holds with ease, if most of its memory is idle at this one."""
        device_bytes = self.machine.device.memory_gib * 2**30
        batch, gpus = case.recipe.batch, case.gpus
        if case.memory.device_bytes > IDLE_SHARE * device_bytes:
            return None
        for micro in range(batch.global_ // gpus, batch.micro, -1):
            if batch.global_ % (micro * gpus) or micro % case.recipe.data.clips_per_video:
                continue
            found = self.case(gpus, self.load([f"batch.micro={micro}"]))
            if found is not None and found.memory.device_bytes <= EASE_SHARE * device_bytes:
                return Change([f"batch.micro={micro}"], found)
        return None

    def _best(self, gpus: int, alternatives: list[list[str]]) -> Change | None:
        best: tuple[tuple[int, int], Change] | None = None
        for changes in alternatives:
            case = self.case(gpus, self.load(changes))
            if case is None or not case.fits:
                continue
            rank = (_percent(case.time.total), len(changes))
            if best is None or rank < best[0]:
                best = rank, Change(changes, case)
        return None if best is None else best[1]

    def _smaller(self) -> list[list[str]]:
        """Return all combinations of settings that save memory."""
        micro = self.recipe.batch.micro
        choices: list[list[list[str]]] = [
            [[], *([f"engine.config={name}"] for name in student_configs() if name != self.recipe.engine.config)],
            [[], ["model.activation_checkpointing=1"]] if self.recipe.model.activation_checkpointing != 1 else [[]],
            [[]] + [[f"batch.micro={smaller}"] for smaller in (micro // 2, micro // 4, 1) if self._may_be(smaller)],
        ]
        if teachers_of(self.recipe):
            names = list(teachers_of(self.recipe))
            sharded = [f"teachers.{n}.placement=zero3" for n in names if teachers_of(self.recipe)[n].network is None]
            chunks = [f"teachers.{name}.chunk_clips={max(micro // 4, 1)}" for name in names]
            choices += [[[], sharded], [[], chunks]]
        return _combinations(choices)

    def _faster(self) -> list[list[str]]:
        """Return all combinations of settings that save time."""
        cores = self.machine.cores_per_node // self.machine.gpus_per_node
        choices: list[list[list[str]]] = [
            [[], *([f"engine.config={name}"] for name in student_configs() if name != self.recipe.engine.config)],
            [[], ["model.activation_checkpointing=0"]] if self.recipe.model.activation_checkpointing else [[]],
            [[], [f"data.workers={cores}"]] if self.recipe.data.workers < cores else [[]],
            [[], [f"teachers.{name}.placement=replicated" for name in self._sharded]],
        ]
        return _combinations(choices)

    @property
    def _sharded(self) -> list[str]:
        return [name for name, teacher in teachers_of(self.recipe).items() if teacher.placement != "replicated"]

    def _may_be(self, micro: int) -> bool:
        batch = self.recipe.batch
        return 0 < micro < batch.micro and batch.global_ % micro == 0 and micro % self.recipe.data.clips_per_video == 0

    def plan(self, gpus: int) -> Plan:
        """Return the plan on ``gpus``, with the scaling up to 1,024."""
        case = self.case(gpus)
        scaling = [found for count in sorted({*COUNTS, gpus}) if (found := self.case(count)) is not None]
        change = None if case is None else self.advice(case) if case.fits else self.remedy(gpus)
        larger = self.larger_micro(case) if case is not None else None
        if case is not None and self.students:
            alone = {key: (own, self._estimates(gpus, own, self.students[key])[1]) for key, own in _alone(case.recipe).items()}
            self._note(worth_of_sharing(case.time, alone))
        configs, admissible = self.configs(gpus), admissible_counts(self.recipe)
        nearest = nearest_counts(self.recipe, gpus) if case is None else []
        return Plan(self.name, gpus, case, configs, change, larger, scaling, admissible, nearest, self.notes)


def _alone(recipe: LearningRecipe) -> dict[str, TrainingRecipe]:
    """Return the recipes of several students by name; empty for any other recipe."""
    return {key: recipe.student(key) for key in recipe.students} if isinstance(recipe, TrainingRecipe) else {}


def student_configs() -> list[str]:
    """Return the names of the engine configs for students in ds_configs/."""
    return sorted(path.name for path in ENGINE_FOLDER.glob("*.json") if not path.name.startswith("teacher"))


def admissible_counts(recipe: LearningRecipe, highest: int = 1024) -> list[int]:
    """Return the numbers of GPUs on which the recipe's micro batch divides its global batch."""
    batch = recipe.batch
    return [count for count in range(1, highest + 1) if batch.global_ % (batch.micro * count) == 0]


def nearest_counts(recipe: LearningRecipe, gpus: int) -> list[int]:
    """Return the next lower and the next higher number of GPUs on which some micro batch divides the global batch."""
    most = recipe.batch.global_
    lower, higher = range(min(gpus - 1, most), 0, -1), range(gpus + 1, most + 1)
    found = [next((count for count in counts if _with_micro(recipe, count)), None) for counts in (lower, higher)]
    return [count for count in found if count is not None]


def _combinations(choices: list[list[list[str]]]) -> list[list[str]]:
    """Return every combination of one list of settings from each choice, without the empty one, the fewest settings first."""
    combined = {tuple(setting for part in parts for setting in part) for parts in itertools.product(*choices)}
    return sorted((list(settings) for settings in combined if settings), key=lambda settings: (len(settings), settings))


def _percent(seconds: float) -> int:
    """Return a number that is equal for times within about a percent of each other."""
    return round(100 * math.log(seconds))


def _with_micro(recipe: LearningRecipe, gpus: int) -> LearningRecipe | None:
    """Return ``recipe`` with the largest micro batch up to its own that works on ``gpus``, None if there is none."""
    batch, share = recipe.batch, recipe.data.clips_per_video
    for micro in range(batch.micro, 0, -1):
        if micro % share == 0 and batch.global_ % (micro * gpus) == 0:
            return (
                recipe if micro == batch.micro else recipe.model_copy(update={"batch": batch.model_copy(update={"micro": micro})})
            )
    return None


def write_plan(
    plan: Plan, machine: Machine, json_file: Path | None, plot_file: Path | None, more: dict[str, Any] | None = None
) -> int:
    """Print the page and write the files that were asked for, JSON with ``more``; return 0 if the recipe fits, else 1."""
    from mvd_ds.files import write_json
    from mvd_ds.tools.plan.page import plot_scaling, print_plan

    print_plan(plan, machine)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, plan_json(plan, machine) | (more or {}))
    if plot_file is not None:
        plot_scaling(plan, machine, plot_file)
    return 0 if plan.case is not None and plan.case.fits else 1
