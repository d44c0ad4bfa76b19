"""``replay``: a step that was not finite, run again in one process with every teacher whole, until it shows where."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mvd_ds.config import ConfigError, TrainingRecipe, validate
from mvd_ds.data.batch import ClipBatch
from mvd_ds.models.masked import build_predictor
from mvd_ds.models.teachers import build_teacher
from mvd_ds.training.console import say
from mvd_ds.training.deepspeed_engine import DTYPES
from mvd_ds.training.dump import nested
from mvd_ds.training.finite import FiniteWatch, minimised
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.run_folder import FAILED, FINISHED, read_json
from mvd_ds.training.step import PixelTargets, TeacherTargets

#: Tensors that are named per micro batch.
NAMED = 6
#: Relative difference up to which a loss is the same: sharding changes the order of sums, nothing else.
SAME = {"fp32": 1e-5, "bf16": 1e-2}


class Replayed(NamedTuple):
    """One micro batch, then and now."""

    rank: int
    micro: int
    then: float
    now: float
    tensors: list[str]
    """What was not finite, in the order of computation."""
    clips: list[str]
    """Clips that alone give something that is not finite; all, where none does."""


def replay(dump: Path, device: str) -> int:
    """Run the step in ``dump`` again and say what it shows.

    Args:
        device: as ``torch.device`` takes it; auto: a GPU where there is one.

    Returns:
        0 if every loss came out as it did then, 1 otherwise.

    Raises:
        ConfigError: if the dump cannot be read or does not fit its own settings.
    """
    values = read_json(dump / "dump.json")
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    try:
        recipe = validate(values["recipe"], f"{dump / 'dump.json'}")
        ranks = values["ranks"]
        say(f"{dump}: step {values['step']} of {len(ranks)} ranks, on {where}")
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{dump / 'dump.json'}: is no dump of a step: {error}") from None
    if not isinstance(recipe, TrainingRecipe):
        raise ConfigError(f"{dump}: objective {recipe.objective} cannot be replayed; pretraining and distillation can")
    objective = _objective(recipe, dump, where)
    differing = 0
    for replayed in _replay(objective, dump, ranks):
        same = _same(replayed, SAME[recipe.engine.precision])
        differing += not same
        said = "the same" if same else "DIFFERENT"
        say(f"rank {replayed.rank} micro batch {replayed.micro}: loss {replayed.then:.8g} then, {replayed.now:.8g} now: {said}")
        if replayed.tensors:
            more = f" and {len(replayed.tensors) - NAMED} more" if len(replayed.tensors) > NAMED else ""
            say(f"  not finite, in this order: {', '.join(replayed.tensors[:NAMED])}{more}")
            say(f"  clips: {', '.join(replayed.clips)}")
    return FAILED if differing else FINISHED


def _objective(recipe: TrainingRecipe, dump: Path, device: torch.device) -> MaskedPrediction:
    student = build_predictor(recipe)
    try:
        student.load_state_dict(load_file(dump / "student.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{dump / 'student.safetensors'}: {str(error).splitlines()[0]}") from None
    dtype = DTYPES[recipe.engine.precision]
    student.to(device, dtype).train()
    teachers = {name: build_teacher(name, settings, recipe).to(device, dtype) for name, settings in recipe.teachers.items()}
    targets = TeacherTargets(recipe, teachers, dtype) if teachers else PixelTargets(recipe)
    return MaskedPrediction(recipe, student, targets, device)


def _replay(objective: MaskedPrediction, dump: Path, ranks: list[dict[str, Any]]) -> Iterator[Replayed]:
    for rank in ranks:
        path = dump / f"rank-{rank['rank']}.safetensors"
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
        for number, micro in enumerate(rank["micro_batches"]):
            own = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{number}.")}
            batch = nested(own, ClipBatch)
            loss, names = _look(objective, batch)
            clips = _guilty(objective, batch, micro["clips"]) if names else []
            yield Replayed(rank["rank"], number, float(micro["total"]), loss, names, clips)


def _look(objective: MaskedPrediction, batch: Any) -> tuple[float, list[str]]:
    """Loss of a micro batch, and what was not finite in its forward and backward pass."""
    student: nn.Module = objective.student
    student.zero_grad(set_to_none=True)
    with FiniteWatch(student) as watch:
        total = objective(batch, False).total
        minimised(total).backward()
    return float(total.detach()), watch.names()


def _guilty(objective: MaskedPrediction, batch: Any, clips: list[str]) -> list[str]:
    """The clips that show it alone."""
    found = [clip for row, clip in enumerate(clips) if _look(objective, _row(batch, row))[1]]
    return found or clips


def _row(batch: Any, row: int) -> Any:
    def one(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: one(inner) for key, inner in value.items()}
        return value[row : row + 1] if isinstance(value, Tensor) else value

    return batch._replace(**{name: one(value) for name, value in batch._asdict().items()})


def _same(replayed: Replayed, tolerance: float) -> bool:
    then, now = replayed.then, replayed.now
    if not (math.isfinite(then) and math.isfinite(now)):
        return math.isfinite(then) == math.isfinite(now)
    return math.isclose(then, now, rel_tol=tolerance)
