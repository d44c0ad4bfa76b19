"""Results of dense probes as a report takes them: read from run folders, pooled where runs repeat one experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from mvd_ds.evaluation.dense_scores import difference, guessed, measure, per_seed
from mvd_ds.files import ConfigError, one_line, read_json
from mvd_ds.runs.dense.results import PRODUCT, SUMS
from mvd_ds.tools.report.pooled_probes import DRAWS, experiment
from mvd_ds.tools.report.run_records import Difference, EncoderFacts, RunRecord


class DenseTarget(BaseModel, allow_inf_nan=False):
    """A target that was read out of tokens."""

    kind: Literal["values", "classes"]
    of: Literal["frames", "places"]
    channels: int
    guessed: float | None = None
    """Accuracy of always naming the most frequent class."""

    @property
    def score_words(self) -> str:
        """The words for its score."""
        return "variance explained" if self.kind == "values" else "accuracy"

    @property
    def second_words(self) -> str:
        """The words for its second measure."""
        return "mean absolute error" if self.kind == "values" else "mean IoU (%)"


class DenseCell(BaseModel, allow_inf_nan=False):
    """The score of a read-out, a share of at most 1, and its interval."""

    score: float
    low: float
    high: float
    second: float
    per_seed: list[float] = Field(default_factory=list)
    blocks: list[str] = Field(default_factory=list)
    """Block that each seed chose on training clips; empty of a result of one block."""


class DenseResults(BaseModel, allow_inf_nan=False):
    """The content of ``dense.json``."""

    targets: dict[str, DenseTarget]
    scores: dict[str, dict[str, DenseCell]]
    comparisons: dict[str, dict[str, Difference]] = Field(default_factory=dict)
    clips: dict[str, int] = Field(default_factory=dict)
    encoders: dict[str, EncoderFacts] = Field(default_factory=dict)
    grids: dict[str, tuple[int, int, int]] = Field(default_factory=dict)
    trainings: int = 1
    """Number of training seeds that the scores are means over."""


def read_dense(runs: Sequence[RunRecord]) -> dict[str, DenseResults]:
    """Return the results of dense probes: of one experiment with several seeds as one, else by the name of each run.

    Raises:
        ConfigError: if a file cannot be understood.
    """
    found = {run.name: _checked(run) for run in runs if (run.path / PRODUCT).exists() and not run.changed_inputs}
    probed = [run for run in runs if run.name in found]
    seeds = {run.recipe.get("run", {}).get("seed") for run in probed}
    same = all(experiment(run) == experiment(probed[0]) for run in probed[1:]) and len(seeds) == len(probed)
    if len(probed) < 2 or not same or not all((run.path / SUMS).exists() for run in probed):
        return found
    tables = [_tables(run) for run in probed]
    if not all(np.array_equal(table["videos"], tables[0]["videos"]) for table in tables):
        return found
    return {", ".join(found): _pooled(list(found.values()), tables)}


def _checked(run: RunRecord) -> DenseResults:
    path = run.path / PRODUCT
    try:
        return DenseResults.model_validate(read_json(path))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"{path}: {where or 'its content'}: {reason}; start the run again to write it anew") from None


def _tables(run: RunRecord) -> Mapping[str, np.ndarray]:
    try:
        with np.load(run.path / SUMS, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        reason = one_line(error, 200)
        raise ConfigError(f"{run.path / SUMS}: cannot be read: {reason}; start the probe again to write it anew") from None


def _pooled(found: Sequence[DenseResults], tables: Sequence[Mapping[str, np.ndarray]]) -> DenseResults:
    """Return results whose seeds are training seeds, each with the mean of its own read-outs."""
    first = found[0]

    def sums(name: str, target: str) -> np.ndarray:
        return np.stack([table[f"{name}/{target}"].mean(0) for table in tables])

    pooled = first.model_copy(update={"scores": {}, "comparisons": {}, "trainings": len(found)}, deep=True)
    for name, targets in first.scores.items():
        for target in targets:
            own, is_classes = sums(name, target), first.targets[target].kind == "classes"
            score = measure(own, is_classes, DRAWS)
            values: dict[str, Any] = {key: getattr(score, key) for key in ("score", "low", "high", "second")}
            blocks = [block for one in found for block in one.scores[name][target].blocks]
            cell = DenseCell(**values, per_seed=list(per_seed(own, is_classes)), blocks=blocks)
            pooled.scores.setdefault(name, {})[target] = cell
            if is_classes:
                pooled.targets[target] = first.targets[target].model_copy(update={"guessed": guessed(own)})
    for name, differences in first.comparisons.items():
        ours, theirs = name.split(" minus ")
        for target in differences:
            is_classes = first.targets[target].kind == "classes"
            gain, low, high = difference(sums(ours, target), sums(theirs, target), is_classes, DRAWS)
            clips = first.clips.get("held_out", 0)
            told = Difference(difference=gain, low=low, high=high, clips=clips, seeds=len(found))
            pooled.comparisons.setdefault(name, {})[target] = told
    return pooled
