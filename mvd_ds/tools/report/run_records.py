"""Readers of run folders: settings, status, curves, probes and accuracies, checked where a person could have broken them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from mvd_ds.files import ConfigError, one_line, read_json
from mvd_ds.tools.report.answers.answer_table import Answers
from mvd_ds.tools.report.encoders.halves import Halves
from mvd_ds.tools.report.encoders.order_result import OrderResult
from mvd_ds.tools.report.freshness import changed_inputs
from mvd_ds.tools.report.loss_words import loss_kinds
from mvd_ds.training.run_folder import RunFolder

Checked = TypeVar("Checked", bound=BaseModel)


class Curve(NamedTuple):
    """The finite values of one metric over optimizer steps."""

    steps: list[int]
    values: list[float]


class RunStatus(BaseModel, allow_inf_nan=False):
    """The content of ``status.json``, which a run that has not saved yet lacks."""

    state: str = "started"
    command: str = ""
    attempts: int = 1
    step: int = 0
    last_step: int = 0
    seconds: float = 0.0
    together: str = ""
    """Folder of the run of all students, from that of one of them."""
    replaced_videos: dict[str, int] = Field(default_factory=dict)
    """Number of replacements by "path: reason"."""


class Difference(BaseModel, allow_inf_nan=False):
    """The paired difference of two models' top-1 and its 95 % interval, as shares in [-1, 1]."""

    difference: float
    low: float
    high: float
    clips: int
    seeds: int

    def verdict(self) -> str | None:
        """Return ``beats`` or ``falls behind`` if the interval excludes zero, else None."""
        return "beats" if self.low > 0 else "falls behind" if self.high < 0 else None


class ProbeDetails(BaseModel, allow_inf_nan=False):
    """The top-1 of each seed of a probe, and the inverse strength of the penalty that it chose."""

    per_seed: list[float] = Field(default_factory=list)
    regularisation: list[float] = Field(default_factory=list)


class EncoderFacts(BaseModel, allow_inf_nan=False):
    """A network of a probe run: what it is, and the names of its blocks in the results."""

    network: str = ""
    weights: str = ""
    kind: str = ""
    parameters: int = 0
    width: int = 0
    input: str = ""
    depth: int = 0
    blocks: dict[str, int] = Field(default_factory=dict)
    """Number of each block that was probed, from 0, by its name in the results."""


class ProbeResults(BaseModel, allow_inf_nan=False):
    """The content of ``probes.json``: held-out top-1 by model and label, shares in [0, 1]; no models if there are no labels."""

    probes: dict[str, dict[str, float]] = Field(default_factory=dict)
    intervals: dict[str, dict[str, tuple[float, float]]] = Field(default_factory=dict)
    """95 % interval of a share over held-out clips and seeds, by model and label."""
    chance: dict[str, float] = Field(default_factory=dict)
    details: dict[str, dict[str, ProbeDetails]] = Field(default_factory=dict)
    comparisons: dict[str, dict[str, Difference]] = Field(default_factory=dict)
    clips: dict[str, int] = Field(default_factory=dict)
    pooling: str = ""
    labels: dict[str, int] = Field(default_factory=dict)
    """Number of classes by label."""
    encoders: dict[str, EncoderFacts] = Field(default_factory=dict)
    """The networks by name, as far as runs of this version tell."""
    order: dict[str, dict[str, OrderResult]] = Field(default_factory=dict)
    """Tests of the sense of time, by name of the result and way of playing; of a single run."""
    base_to_new: dict[str, Halves] = Field(default_factory=dict)
    """Halves of the classes by label, where probes were fitted on one of them."""
    trainings: int = 1
    """Number of training seeds that the shares are means over."""

    def renamed(self, prefix: str) -> ProbeResults:
        """Return the same results with ``prefix`` before every model and comparison."""
        names = {
            key: {prefix + name: value for name, value in getattr(self, key).items()}
            for key in ("probes", "intervals", "details")
        }
        comparisons = {
            " minus ".join(prefix + side for side in name.split(" minus ")): value for name, value in self.comparisons.items()
        }
        encoders = {
            prefix + name: facts.model_copy(update={"blocks": {prefix + block: number for block, number in facts.blocks.items()}})
            for name, facts in self.encoders.items()
        }
        halves = {prefix + label: found.renamed(prefix) for label, found in self.base_to_new.items()}
        return self.model_copy(update={**names, "comparisons": comparisons, "encoders": encoders, "base_to_new": halves})


class Validation(BaseModel, allow_inf_nan=False):
    """The content of ``validation.json``: accuracy of a fine-tuned run on its held-out videos, shares in [0, 1]."""

    step: int
    top1: float
    top5: float
    samples: int
    label: list[int] = Field(default_factory=list)
    """Class of each video."""
    predicted: list[int] = Field(default_factory=list)
    """Class that each was given; -1: it could not be read."""


class ClassVideos(BaseModel):
    """A class in ``evaluation.json``, as far as a report shows it."""

    samples: int


class Evaluation(BaseModel, allow_inf_nan=False):
    """The content of ``evaluation.json`` that a report shows: accuracy of a classifier, shares in [0, 1]."""

    weights: str
    manifest: str
    top1: float
    top5: float
    samples: int
    unreadable: int = 0
    per_class: list[ClassVideos] = Field(default_factory=list)
    """Every class of the classifier, with its videos."""


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder holds it."""

    name: str
    path: Path
    recipe: dict[str, Any]
    recipe_text: str
    status: RunStatus
    curves: dict[str, Curve] = field(default_factory=dict)
    unreadable_lines: int = 0
    """Number of lines of metrics.jsonl that could not be read; a cut last line does not count."""
    results: ProbeResults | None = None
    """Results of a probe run."""
    validation: Validation | None = None
    """Newest held-out accuracy of a fine-tuned run."""
    evaluation: Evaluation | None = None
    """Results of an evaluation run."""
    answers: Answers | None = None
    """Newest figures of a run whose task is not one class of each video."""
    changed_inputs: tuple[str, ...] = ()
    """Inputs that changed since the figures of this run were measured: the figures are left out."""

    @property
    def objective(self) -> str:
        """Objective of the recipe."""
        return str(self.recipe.get("objective", "unknown"))

    def loss_names(self) -> dict[str, str]:
        """Return the loss of every target in words, as the recipe sets it."""
        return loss_kinds(self.recipe)

    def neighbours(self) -> dict[str, Curve]:
        """Return the accuracy of nearest neighbours that a run measured while it trained, by label."""
        found = {name: curve for name, curve in self.curves.items() if name.startswith("probe/") and name.endswith("_top1")}
        return {name.removeprefix("probe/").removesuffix("_top1"): curve for name, curve in found.items()}

    def probed_models(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the models of a probe run, by name."""
        models = self.recipe.get("models") if self.results is not None else None
        found = models.items() if isinstance(models, dict) else ()
        return {str(name): settings for name, settings in found if isinstance(settings, dict)}


def read_runs(paths: list[Path]) -> list[RunRecord]:
    """Return the runs in ``paths``, in this order, each once; folders of one name are told apart by their parents.

    A run of several students stands for the runs of all of them.

    Raises:
        ConfigError: if a folder is missing, is no run, or holds a file that cannot be understood.
    """
    if not paths:
        raise ConfigError("report: give at least one run folder")
    distinct: dict[Path, Path] = {}
    for path in paths:
        for folder in [*RunFolder(path).students.values()] or [path]:
            distinct.setdefault(folder.resolve(), folder)
    names = _shortest_names(list(distinct))
    return [_read_run(path, name) for path, name in zip(distinct.values(), names, strict=True)]


def _shortest_names(paths: list[Path]) -> list[str]:
    """Return the last parts of every path, as many as it takes to tell them all apart."""
    names = [""] * len(paths)
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _read_run(path: Path, name: str) -> RunRecord:
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run folder; give the run.output of a run")
    recipe_path = path / "recipe.yaml"
    if not recipe_path.is_file():
        raise ConfigError(f"{path}: is no run folder, it has no recipe.yaml; give the run.output of a run")
    folder = RunFolder(path)
    try:
        recipe_text = recipe_path.read_text(encoding="utf-8")
        recipe = yaml.safe_load(recipe_text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{recipe_path}: cannot be read: {one_line(error, 200)}") from None
    if not isinstance(recipe, dict):
        raise ConfigError(f"{recipe_path}: a recipe is a mapping of settings, got {type(recipe).__name__}")
    status = _checked(folder.status, RunStatus) if folder.status.exists() else RunStatus()
    curves, unreadable = read_curves(folder.metrics) if folder.metrics.exists() else ({}, 0)
    results = _read_if_there(path / "probes.json", ProbeResults)
    measured_by = {name: path / f"{name}.json" for name in ("validation", "evaluation")}
    of_tasks = {name: _read_if_there(file, Answers) for name, file in measured_by.items() if _names_a_task(file)}
    validation = None if "validation" in of_tasks else _read_if_there(measured_by["validation"], Validation)
    evaluation = None if "evaluation" in of_tasks else _read_if_there(measured_by["evaluation"], Evaluation)
    answers = of_tasks.get("evaluation") or of_tasks.get("validation")
    measured = [product for product in ("probes.json", "dense.json", "evaluation.json") if (path / product).exists()]
    changed = tuple(changed for product in measured for changed in changed_inputs(folder, product, recipe))
    if changed:
        results, evaluation, answers = results and ProbeResults(), None, of_tasks.get("validation")
    figures = (results, validation, evaluation, answers)
    return RunRecord(name, path, recipe, recipe_text, status, curves, unreadable, *figures, changed)


def _names_a_task(path: Path) -> bool:
    """Return whether a file of figures says that they are those of a task other than one class of each video."""
    return path.exists() and "task" in read_json(path)


def _read_if_there(path: Path, kind: type[Checked]) -> Checked | None:
    return _checked(path, kind) if path.exists() else None


def _checked(path: Path, kind: type[Checked]) -> Checked:
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(f"{path}: {where or 'its content'}: {fault['msg']}; start the run again to write it anew") from None


def read_curves(path: Path) -> tuple[dict[str, Curve], int]:
    """Return curves by metric name, and the number of lines that could not be read.

    A last line that was cut is no fault: the run was stopped while it wrote, or still writes.
    """
    curves: dict[str, Curve] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    unreadable = 0
    for number, line in enumerate(lines, 1):
        values = _metrics_of(line)
        if values is None:
            unreadable += number < len(lines)
            continue
        step = int(values.pop("step"))
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                curve = curves.setdefault(name, Curve([], []))
                curve.steps.append(step)
                curve.values.append(float(value))
    return curves, unreadable


def _metrics_of(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None
