"""``plan``: memory, time and cost of a recipe on so many GPUs, before anything is started.

Memory and times are formulas, said with their sources where they stand; what is assumed and not measured is said on the page.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.config.base import ENGINE_FOLDER
from mvd_ds.tools.machine.devices import Machine
from mvd_ds.tools.plan.case import Case, Change, Plan, plan_json
from mvd_ds.tools.plan.memory import plan_memory
from mvd_ds.tools.plan.sizes import RecipeSizes, recipe_sizes
from mvd_ds.tools.plan.timing import plan_time
from mvd_ds.training.engine.deepspeed_start import zero_faults
from mvd_ds.training.engine.engine_config import Place, student_config, teacher_config

#: Clips an epoch of Kinetics-400 has, of which some are gone from the web by now. Source: MVD.
KINETICS_CLIPS = 240_436
#: A change that saves less of a step is no news: the assumed rates are not that exact.
WORTH_SAYING = 0.03
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


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
        from mvd_ds.data.manifests.mixture import read_mixture

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
        place = Place(gpus, min(gpus, self.machine.gpus_per_node), Path(recipe.engine.nvme_folder or "node-local disk"))
        engine = student_config(recipe, place, self.sizes.student.thresholds, zero_faults)
        teachers = {
            name: teacher_config(recipe, recipe.teachers[name].placement, place, teacher.thresholds, zero_faults)
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
        return sorted(filter(None, found), key=lambda case: (not case.fits, _percent(case.time.total), case.memory.device_bytes))

    def remedy(self, gpus: int) -> Change | None:
        """The settings that make it fit and cost least time; among equals the fewest."""
        return self._best(gpus, self._smaller())

    def advice(self, case: Case) -> Change | None:
        """Settings that keep it fitting and are faster by more than a blunt model can be wrong about; None without any."""
        found = self._best(case.gpus, self._faster())
        return found if found is not None and found.case.time.total < (1 - WORTH_SAYING) * case.time.total else None

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
        return _combinations(choices)

    def _faster(self) -> list[list[str]]:
        """All combinations of what saves time."""
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
        return [name for name, teacher in self.recipe.teachers.items() if teacher.placement != "replicated"]

    def _may_be(self, micro: int) -> bool:
        batch = self.recipe.batch
        return 0 < micro < batch.micro and batch.global_ % micro == 0 and micro % self.recipe.data.clips_per_video == 0

    def plan(self, gpus: int) -> Plan:
        """Everything at ``gpus``, and the way up to 1,024."""
        case = self.case(gpus)
        scaling = [found for count in sorted({*COUNTS, gpus}) if (found := self.case(count)) is not None]
        change = None if case is None else self.advice(case) if case.fits else self.remedy(gpus)
        return Plan(self.name, gpus, case, self.configs(gpus), change, scaling, admissible_counts(self.recipe), self.notes)


def student_configs() -> list[str]:
    """Names of the engine configs for students in ds_configs/."""
    return sorted(path.name for path in ENGINE_FOLDER.glob("*.json") if not path.name.startswith("teacher"))


def admissible_counts(recipe: TrainingRecipe, highest: int = 1024) -> list[int]:
    """Numbers of GPUs on which the recipe's micro batch divides its global batch."""
    batch = recipe.batch
    return [count for count in range(1, highest + 1) if batch.global_ % (batch.micro * count) == 0]


def _combinations(choices: list[list[list[str]]]) -> list[list[str]]:
    """Every way to take one list of settings from each choice but that of changing nothing, the fewest settings first."""
    combined = {tuple(setting for part in parts for setting in part) for parts in itertools.product(*choices)}
    return sorted((list(settings) for settings in combined if settings), key=lambda settings: (len(settings), settings))


def _percent(seconds: float) -> int:
    """A number that is the same for times within a percent."""
    return round(100 * math.log(seconds))


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
    from mvd_ds.files import write_json
    from mvd_ds.tools.plan.page import plot_scaling, print_plan

    print_plan(plan, machine)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, plan_json(plan, machine))
    if plot_file is not None:
        plot_scaling(plan, machine, plot_file)
    return 0 if plan.case is not None and plan.case.fits else 1
