"""This module lists, verifies, prunes and converts checkpoints (``checkpoints``), on any machine, without a GPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mvd_ds.config import ConfigError, FinetuneRecipe, PreprocessingSettings, TrainingRecipe, dump, validate
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.models.classifiers.adaptation import classifier_of, save_adapted
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.models.formats.containers import load_pickled
from mvd_ds.models.formats.deepspeed_folder import read_checkpoint_folder
from mvd_ds.models.init_from_checkpoint import init_classifier_from_checkpoint
from mvd_ds.models.initialisation import build_without_weights
from mvd_ds.models.text.own_files import text_files
from mvd_ds.models.tokenizers.folder import save_tokenizer
from mvd_ds.models.weights import AVERAGE_NAME, TARGET_STATISTICS_NAME, load_strictly, write_folder
from mvd_ds.runs.adapting.adapted import ADAPTED
from mvd_ds.runs.finetune import card_of, read_labelled
from mvd_ds.training.checkpoint.files import (
    LATEST_NAME,
    MANIFEST_NAME,
    STATISTICS_NAME,
    STEP_NAME,
    holds_average,
    read_checkpoint_manifest,
    step_name,
    to_prune,
    verify,
)
from mvd_ds.training.console import say


def list_checkpoints(folder: Path, thorough: bool) -> None:
    """Print a line for every checkpoint: step, size, layout, and whether it is whole.

    Args:
        folder: folder of a run, of its checkpoints, or of one checkpoint.
        thorough: whether to read every file and compare its digest; else sizes are compared.

    Raises:
        ConfigError: if there are none, or if any is damaged; what is wrong is in its line.
    """
    home, paths = find_checkpoints(folder)
    latest = latest_of(home)
    damaged = []
    say(f"{'step':>9}  {'GiB':>8}  {'ranks':>5}  ZeRO  average  state")
    for path in paths:
        try:
            manifest = read_checkpoint_manifest(path)
            line = _line(manifest)
            fault = _fault(path, manifest, thorough)
        except ConfigError as error:
            line, fault = f"{int(path.name.removeprefix('step-')):>9}  {'':>8}  {'':>5}  {'':>4}  {'':>7}", str(error)
        if fault:
            damaged.append(path.name)
        good = "digests are right" if thorough else "whole"
        say(f"{line}  {f'damaged: {fault}' if fault else good}{', latest' if path.name == latest else ''}")
    if latest is not None and not (home / latest).is_dir():
        damaged.append(latest)
        say(f"{home / LATEST_NAME}: names {latest}, which is not there")
    if damaged:
        raise ConfigError(f"{home}: {len(damaged)} of {len(paths)} damaged: {', '.join(damaged)}; a resume takes the one before")


def prune_checkpoints(folder: Path, keep_last: int, keep_every: int | None) -> None:
    """Remove all but the newest ``keep_last`` checkpoints and every one whose step is a multiple of ``keep_every``.

    Raises:
        ConfigError: if none that would stay is whole; then nothing is removed.
    """
    home, paths = find_checkpoints(folder)
    latest = latest_of(home)
    current = int(latest.removeprefix("step-")) if latest else max(_step(path) for path in paths)
    gone = to_prune(home, current, keep_last, keep_every)
    kept = [path for path in paths if path not in gone]
    if gone and not any(_is_whole(path) for path in kept):
        raise ConfigError(f"{home}: nothing is removed: none of the {len(kept)} that would stay is whole; see --verify")
    for path in gone:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # the run itself, which goes on, has pruned it in the meantime
            continue
        except OSError as error:
            raise ConfigError(f"{path}: cannot be removed: {error.strerror or error}") from None
        say(f"removed {path}")
    say(f"{home}: {len(kept)} stay: {', '.join(path.name for path in kept)}")


def convert_checkpoint(folder: Path, target: Path, step: int | None, average_only: bool) -> None:
    """Write the model of a checkpoint as a model folder, as the end of a run does.

    Args:
        folder: folder of a run, of its checkpoints, or of one checkpoint.
        target: folder to write: ``model.safetensors``, ``config.json``, and ``ema.safetensors`` where there is an average.
        step: step of the checkpoint; None: the one that ``latest`` names, or the newest.
        average_only: whether the moving average is the model.

    Raises:
        ConfigError: if there is no such checkpoint, it is damaged, or holds no average.
    """
    home, paths = find_checkpoints(folder)
    name = step_name(step) if step is not None else latest_of(home) or paths[-1].name
    path = next((path for path in paths if path.name == name), None)
    if path is None:
        raise ConfigError(f"{home}: there is no {name}; there are {', '.join(path.name for path in paths)}")
    manifest = read_checkpoint_manifest(path)
    verify(path, manifest["files"], manifest["files"])
    weights = read_checkpoint_folder(path, average=average_only)
    recipe = validate(weights.config["recipe"], str(path / MANIFEST_NAME))
    if isinstance(recipe, FinetuneRecipe):
        write_classifier(target, recipe, weights.tensors, {"step": manifest["step"]})
        say(f"{path}: {weights.notes[0]}; wrote the classifier {target}")
        return
    if isinstance(recipe, TokenizerRecipe):
        digest = manifest["contents"].get(f"teachers.{recipe.tokenised}.weights")
        save_tokenizer(target, weights.tensors, load_pickled(path / STATISTICS_NAME), recipe, digest, manifest["step"])
        say(f"{path}: {weights.notes[0]}; wrote the tokenizer {target}")
        return
    more = {}
    if holds_average(manifest) and not average_only:
        more[AVERAGE_NAME] = read_checkpoint_folder(path, average=True).tensors
    if STATISTICS_NAME in manifest["files"]:
        more[TARGET_STATISTICS_NAME] = load_pickled(path / STATISTICS_NAME)
    config = {**weights.config, "weights": "ema"} if average_only else weights.config
    copied = text_files(recipe.language) if isinstance(recipe, TrainingRecipe) else {}
    write_folder(target, weights.tensors, config, {"config": json.dumps(config)}, more, copied=copied)
    say(f"{path}: {weights.notes[0]}; wrote {target}{''.join(f', with {name} in it' for name in more)}")


def write_classifier(target: Path, recipe: FinetuneRecipe, weights: Mapping[str, Tensor], beside: dict[str, Any]) -> None:
    """Write weights of a fine-tuning run as a classifier's folder; where its videos are not at hand, classes have numbers.

    Raises:
        ConfigError: if the weights are not those of its classifier, the folder cannot be written, or they are prompts and the
            videos are not at hand.
    """
    if recipe.adaptation.learns_prompts:  # which are nothing without the names of the classes
        videos = read_labelled(recipe)
        adapted = ADAPTED[recipe.adaptation.kind](recipe, videos.classes)
        load_strictly(adapted.model, weights, str(target))
        adapted.save(target, adapted.model, weights, card_of(recipe, videos), beside)
        return
    count = len(weights["head.weight"]) if "head.weight" in weights else 0
    model = whole_classifier(recipe, count, weights, str(target))
    try:
        # Names are those of the labels; only a scale may be that of the head that the run began with.
        own = recipe.model_copy(update={"keep_head": recipe.keep_head and recipe.task == "regression"})
        card = card_of(own, read_labelled(recipe))
    except ConfigError as error:
        if recipe.task == "regression":
            raise ConfigError(f"the scale of the labels cannot be read: {error}") from None
        say(f"classes are numbered, their names cannot be read: {error}")
        names, label = tuple(str(number) for number in range(count)), recipe.label or "label"
        card = ClassifierCard(names, PreprocessingSettings(clip=recipe.data.clip), label, recipe.task)
    save_adapted(target, model, model.state_dict(), card, {**beside, "finetuned_by": dump(recipe)}, recipe.adaptation)


def whole_classifier(recipe: FinetuneRecipe, classes: int, weights: Mapping[str, Tensor], origin: str) -> Classifier:
    """Return the classifier of a run with ``weights``; of those that were not trained, with the ones that it began with.

    Raises:
        ConfigError: if they are not the weights of this classifier, or what it began with is gone.
    """
    if recipe.adaptation.kind == "full":
        model = build_without_weights(lambda: classifier_of(recipe, classes))
        load_strictly(model, weights, origin)
        return model
    model = init_classifier_from_checkpoint(recipe, classes)
    load_strictly(model, {**model.state_dict(), **weights}, origin)
    return model


def find_checkpoints(folder: Path) -> tuple[Path, list[Path]]:
    """Return the folder of checkpoints and those in it, oldest first.

    Args:
        folder: folder of a run, of its checkpoints, or of one checkpoint.

    Raises:
        ConfigError: if there are none.
    """
    if STEP_NAME.fullmatch(folder.name) and (folder / MANIFEST_NAME).exists():
        return folder.parent, [folder]
    for home in (folder / "checkpoints", folder):
        paths = sorted(path for path in home.glob("step-*") if STEP_NAME.fullmatch(path.name)) if home.is_dir() else []
        if paths:
            return home, paths
    raise ConfigError(f"{folder}: has no checkpoints; give the folder of a run (run.output), or of its checkpoints")


def latest_of(home: Path) -> str | None:
    """Return the name in ``latest``, or None if there is none or it names no checkpoint."""
    try:
        text = (home / LATEST_NAME).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if STEP_NAME.fullmatch(text) else None


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _line(manifest: dict[str, Any]) -> str:
    size = sum(entry["size"] for entry in manifest["files"].values()) / 2**30
    layout = manifest["layout"]
    average = "yes" if holds_average(manifest) else "no"
    return f"{manifest['step']:>9}  {size:>8.3f}  {layout.get('world'):>5}  {layout.get('zero_stage'):>4}  {average:>7}"


def _fault(path: Path, manifest: dict[str, Any], thorough: bool) -> str | None:
    try:
        verify(path, manifest["files"], manifest["files"], digests=thorough)
    except ConfigError as error:
        return str(error)
    return None


def _is_whole(path: Path) -> bool:
    try:
        return _fault(path, read_checkpoint_manifest(path), thorough=True) is None
    except ConfigError:
        return False
