"""This module runs a step that was not finite again, in one process with every teacher whole (``replay``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mvd_ds.config import ConfigError, FinetuneRecipe, TrainingRecipe, validate
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.data.batch import ClipBatch, LabelledBatch
from mvd_ds.data.masking_batch import device_masks
from mvd_ds.files import read_json
from mvd_ds.models.acceleration.fp8 import use_fp8
from mvd_ds.models.classifiers.adaptation import classifier_of
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.classifiers.classifier_folder import open_classifier
from mvd_ds.models.formats.strict import load_strictly
from mvd_ds.models.initialisation import build_without_weights
from mvd_ds.models.teachers import build_teacher
from mvd_ds.objectives.moving_statistics import load_statistics
from mvd_ds.runs.adapting.adapted import ADAPTED, Adapted, place_frozen
from mvd_ds.runs.adapting.prompts import PromptClassification
from mvd_ds.runs.building import cached_types
from mvd_ds.runs.finetune import read_labelled
from mvd_ds.runs.student import build_predictor
from mvd_ds.runs.tokenizers.learn import make_objective, plan_tokenizer
from mvd_ds.training.cached_targets import CachedTargets
from mvd_ds.training.classification import Classification
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.engine.deepspeed_engine import DTYPES
from mvd_ds.training.language import CaptionLoss
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.nonfinite.dump import AVERAGE_NAME, STATISTICS_NAME, nested
from mvd_ds.training.nonfinite.finite import FiniteWatch, minimised
from mvd_ds.training.run_folder import FAILED, FINISHED, RunFolder
from mvd_ds.training.step import PixelTargets, TargetSource, TeacherTargets
from mvd_ds.training.tokenizing import Tokenizing

#: Tensors that are named per micro batch.
NAMED = 6
#: Relative difference up to which a loss is the same: sharding changes the order of sums, nothing else.
SAME = {"fp32": 1e-5, "bf16": 1e-2}


class Replayed(NamedTuple):
    """The comparison of one micro batch, then and now."""

    rank: int
    micro: int
    then: float
    now: float
    tensors: list[str]
    """Names of the tensors that were not finite, in the order of computation."""
    clips: list[str]
    """Clips that alone give something that is not finite; all, where none does."""


def replay(dump: Path, device: str) -> int:
    """Run the step in ``dump`` again and print what it shows.

    Args:
        device: device as ``torch.device`` takes it; auto: a GPU where there is one.

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
    if not isinstance(recipe, TrainingRecipe | FinetuneRecipe):
        raise ConfigError(f"{dump / 'dump.json'}: is no dump of a step: its recipe trains nothing")
    step = _step(recipe, dump, where)
    differing = 0
    for replayed in _replay(step, dump, ranks):
        same = _same(replayed, SAME[recipe.engine.precision])
        differing += not same
        said = "the same" if same else "DIFFERENT"
        say(f"rank {replayed.rank} micro batch {replayed.micro}: loss {replayed.then:.8g} then, {replayed.now:.8g} now: {said}")
        if replayed.tensors:
            more = f" and {len(replayed.tensors) - NAMED} more" if len(replayed.tensors) > NAMED else ""
            say(f"  not finite, in this order: {', '.join(replayed.tensors[:NAMED])}{more}")
            say(f"  clips: {', '.join(replayed.clips)}")
    return FAILED if differing else FINISHED


@dataclass
class Step:
    """The parts of a step: a network in training, its objective, and the kind of its micro batches."""

    network: nn.Module
    objective: Classification | MaskedPrediction | Tokenizing
    kind: type[ClipBatch | LabelledBatch]

    def look(self, batch: Any) -> tuple[float, list[str]]:
        """Return the loss of a micro batch, and the tensors of its two passes that were not finite."""
        self.network.zero_grad(set_to_none=True)
        with FiniteWatch(self.network) as watch:
            total = self.objective(batch, False).total
            minimised(total).backward()
        return float(total.detach()), watch.names()

    def find_nonfinite_clips(self, batch: Any, clips: list[str]) -> list[str]:
        """Return the clips that are not finite alone or with the clip that they are mixed with; all if none is."""
        found = [clip for row, clip in enumerate(clips) if self.look(_alone(batch, row))[1]]
        return found or clips


def _step(recipe: TrainingRecipe | FinetuneRecipe, dump: Path, device: torch.device) -> Step:
    """Return the step of the dump: its network, and every teacher whole."""
    path, dtype = dump / "student.safetensors", DTYPES[recipe.engine.precision]
    try:
        weights = load_file(path)
        adapted = _prompts(recipe) if isinstance(recipe, FinetuneRecipe) and recipe.adaptation.learns_prompts else None
        network = _network(recipe, weights) if adapted is None else adapted.model
        network.load_state_dict(weights)
        average = load_file(dump / AVERAGE_NAME) if (dump / AVERAGE_NAME).is_file() else {}
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
    network.to(device, dtype).train()
    if isinstance(recipe, FinetuneRecipe):
        teacher = None
        if recipe.teacher is not None:
            teacher = open_classifier(recipe.teacher.weights)[0].requires_grad_(False).to(device, dtype)
        if adapted is not None:
            place_frozen(adapted, device, dtype)
            return Step(network, adapted.objective(network, teacher, Cluster(0, 1, device)), LabelledBatch)
        classes = len(weights["head.weight"])
        return Step(network, Classification(recipe, network, teacher, classes, device), LabelledBatch)
    teachers: dict[str, Callable[..., Tensor]] = {}
    for name, settings in recipe.asked_teachers.items():
        built = build_teacher(name, settings, recipe)
        if settings.is_ema:
            load_strictly(built, {key: value for key, value in average.items() if key in built.state_dict()}, str(dump))
        teachers[name] = built.to(device, dtype)
        if settings.fp8:
            use_fp8(built)
    objective: MaskedPrediction | Tokenizing
    if isinstance(recipe, TokenizerRecipe):
        objective = make_objective(recipe, network, teachers, device)
    else:
        captions = CaptionLoss(recipe.language, lambda value: [value], rank=0) if recipe.language is not None else None
        objective = MaskedPrediction(recipe, network, _targets(recipe, teachers, dtype, dump), device, captions)
    if objective.statistics:
        path = dump / STATISTICS_NAME
        load_statistics(objective.statistics, load_file(path) if path.is_file() else {}, str(path))
    return Step(network, objective, ClipBatch)


def _targets(recipe: TrainingRecipe, teachers: dict[str, Callable[..., Tensor]], dtype: torch.dtype, dump: Path) -> TargetSource:
    """Return the source of the targets of a step; what was read from a cache is in the dump."""
    masks = device_masks(recipe)
    if recipe.targets.cache is not None:
        return CachedTargets(recipe, cached_types(recipe, RunFolder(dump), compares=False), masks)
    return TeacherTargets(recipe, teachers, dtype, masks) if teachers else PixelTargets(recipe, masks)


def _network(recipe: TrainingRecipe | FinetuneRecipe, weights: dict[str, Tensor]) -> nn.Module:
    """Return the network that a recipe trains, before it is given ``weights``."""
    if isinstance(recipe, FinetuneRecipe):
        return _classifier(recipe, weights)
    return plan_tokenizer(recipe).build() if isinstance(recipe, TokenizerRecipe) else build_predictor(recipe)


def _prompts(recipe: FinetuneRecipe) -> Adapted:
    """Return the prompts that a recipe trains, on their frozen towers.

    Raises:
        ConfigError: if weights or classes cannot be read, or the rate of the step counts, which a dump does not hold.
    """
    prompt = recipe.prompt
    if recipe.adaptation.kind == "metaprompt" and prompt.meta_step and prompt.inner_rate is None:
        raise ConfigError("replay: episodes move prompts by the rate of the step, which no dump holds; set prompt.inner_rate")
    return ADAPTED[recipe.adaptation.kind](recipe, read_labelled(recipe).classes)


def _classifier(recipe: FinetuneRecipe, weights: dict[str, Tensor]) -> Classifier:
    """Return a classifier without weights for as many classes as ``weights`` have."""
    classes = len(weights["head.weight"])
    return build_without_weights(lambda: classifier_of(recipe, classes))


def _replay(step: Step, dump: Path, ranks: list[dict[str, Any]]) -> Iterator[Replayed]:
    found: Iterable[tuple[int, int, dict[str, Any], Any]] = _micro_batches(step, dump, ranks)
    of_all = (
        step.objective.captions is not None
        if isinstance(step.objective, MaskedPrediction)
        else isinstance(step.objective, PromptClassification)
    )
    if of_all:
        found = list(found)  # a loss is over all of them
        step.objective.prepare([batch for *_, batch in found])
    for rank, number, micro, batch in found:
        loss, names = step.look(batch)
        clips = step.find_nonfinite_clips(batch, micro["clips"]) if names else []
        yield Replayed(rank, number, float(micro["total"]), loss, names, clips)


def _micro_batches(step: Step, dump: Path, ranks: list[dict[str, Any]]) -> Iterator[tuple[int, int, dict[str, Any], Any]]:
    """Yield rank, number, record and content of every micro batch of a dump."""
    for rank in ranks:
        path = dump / f"rank-{rank['rank']}.safetensors"
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
        for number, micro in enumerate(rank["micro_batches"]):
            own = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{number}.")}
            yield rank["rank"], number, micro, nested(own, step.kind)


def _alone(batch: Any, row: int) -> Any:
    """Return one clip of a micro batch, with the one that it is mixed with."""
    rows = [row]
    if isinstance(batch, LabelledBatch) and (partner := int(batch.partner[row])) != row:
        rows.append(partner)

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: of(inner) for key, inner in value.items()}
        return value[rows] if isinstance(value, Tensor) else value

    chosen = batch._replace(**{name: of(value) for name, value in batch._asdict().items()})
    return chosen._replace(partner=torch.arange(len(rows)).flip(0)) if isinstance(batch, LabelledBatch) else chosen


def _same(replayed: Replayed, tolerance: float) -> bool:
    then, now = replayed.then, replayed.now
    if not (math.isfinite(then) and math.isfinite(now)):
        return math.isfinite(then) == math.isfinite(now)
    return math.isclose(then, now, rel_tol=tolerance)
