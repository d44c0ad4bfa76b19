"""This module fits fine-tuning to what is there: unstated settings follow from the weights, the videos and the machine."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from mvd_ds.config import ConfigError, FinetuneRecipe, differences, dump
from mvd_ds.config.load import validate
from mvd_ds.config.tasks import CLASSES
from mvd_ds.files import read_json
from mvd_ds.models.formats import read_checkpoint
from mvd_ds.models.formats.containers import CONFIG_NAME
from mvd_ds.models.formats.describe import ARCHITECTURE, describe
from mvd_ds.models.formats.facts import encoder_facts
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.run_folder import RunFolder

PEAK_RATE = 5e-4
"""Peak learning rate for up to 256 videos a batch, and its floor below. Source: MVD's fine-tuning, 5e-4 a batch of 256; scaled
to a batch of 8 videos it would be 1.6e-5, which moves nothing in a few hundred steps."""
WANTED_STEPS = 400
FEWEST_EPOCHS, MOST_EPOCHS = 20, 200
VALIDATIONS = 10
STEPS_PER_EPOCH = 3
"""An epoch has at least so many steps; the global batch of few videos is smaller for it."""
UNMOVED = 0.98
"""Share of the loss of guessing above which the loss counts as not moved."""
LARGEST_BATCH, LARGEST_MICRO, MOST_WORKERS = 64, 8, 8


def fit_to_weights(recipe: FinetuneRecipe) -> FinetuneRecipe:
    """Return ``recipe`` with the network and the clip of its ``weights`` wherever it does not state them.

    Raises:
        ConfigError: if the weights cannot be read, or do not go with what is stated.
    """
    if not recipe.fit or recipe.weights is None:
        return recipe
    if not Path(recipe.weights).exists():
        raise ConfigError(
            f"weights: {recipe.weights}: there is no such file or folder; give those of a pretrained encoder, or train from "
            "scratch by weights=null model.size=tiny model.patch_px=12 data.clip.frames=12 data.clip.size_px=48"
        )
    try:
        checkpoint = read_checkpoint(Path(recipe.weights))
    except ConfigError as error:
        raise ConfigError(f"weights: {error}") from None
    named = recipe.states("model.size")
    stated = {key for key in ARCHITECTURE if recipe.states(f"model.{key}")}
    stated |= {"embed_dim", "depth", "num_heads"} if named else set()
    heads = {"num_heads": recipe.model.num_heads} if "num_heads" in stated - set(encoder_facts(checkpoint)) else None
    network = describe(checkpoint, heads)
    values = dump(recipe)
    found = dump(network.encoder)
    if found["kind"] != "video" and "kind" not in stated:
        raise ConfigError(
            f"weights {recipe.weights}: an encoder of images, and a classifier is one of videos; give those of a video network"
        )
    values["model"] |= {key: found[key] for key in ARCHITECTURE if key not in stated}
    values["model"]["size"] = recipe.model.size if named else None
    values["data"]["clip"] |= {key: value for key, value in network.clip.items() if not recipe.states(f"data.clip.{key}")}
    return _validated(values)


def fit_to_videos(fitted: FinetuneRecipe, recipe: FinetuneRecipe, videos: int) -> FinetuneRecipe:
    """Return ``fitted`` with batch, epochs, learning rate, loader processes and precision for ``videos`` training videos.

    Args:
        fitted: ``recipe``, fitted to its weights.
        recipe: tells what was stated.
        videos: number of training videos.
    """
    values = dump(fitted)
    clips = videos * recipe.data.clips_per_video
    values["batch"] = _batch(recipe, clips)
    steps_per_epoch = max(clips // values["batch"]["global"], 1)
    if not (recipe.states("schedule.epochs") or recipe.states("schedule.steps")):
        epochs = min(max(math.ceil(WANTED_STEPS / steps_per_epoch), FEWEST_EPOCHS), MOST_EPOCHS)
        values["schedule"]["epochs"] = epochs
    if not recipe.states("validation.every_epochs"):
        values["validation"]["every_epochs"] = max((values["schedule"]["epochs"] or 1) // VALIDATIONS, 1)
    if not recipe.states("optimizer.base_lr"):
        counted = values["batch"]["global"] // (recipe.data.clips_per_video if recipe.optimizer.lr_counts == "videos" else 1)
        values["optimizer"]["base_lr"] = PEAK_RATE * max(1.0, 256 / counted)
    if not recipe.states("data.workers"):
        values["data"]["workers"] = min(os.cpu_count() or 1, MOST_WORKERS)
    if not recipe.states("engine.precision") and (recipe.run.device == "cpu" or not torch.cuda.is_available()):
        values["engine"]["precision"] = "fp32"
    return _validated(values)


def require_same_fit(recipe: FinetuneRecipe, cluster: Cluster) -> None:
    """Refuse hosts that see other videos or other weights: each has fitted the recipe for itself. Collective.

    Raises:
        ConfigError: on every rank, naming the settings that differ.
    """
    # Hosts may have different numbers of cores.
    fits = [json.loads(text) for text in cluster.gather(json.dumps(dump(recipe)))] if recipe.fit else []
    for rank, fit in enumerate(fits):
        if wrong := [line for line in differences(fits[0], fit) if not line.startswith("data.workers: ")]:
            raise ConfigError(
                f"data.manifest {recipe.data.manifest}: rank 0 sees others than rank {rank}: {'; '.join(wrong)}; "
                "give all hosts the same files"
            )


def describe_fit(recipe: FinetuneRecipe) -> None:
    """Print which numbers a fitted run has."""
    if not recipe.fit:
        return
    model, clip, batch, schedule = recipe.model, recipe.data.clip, recipe.batch, recipe.schedule
    length = f"schedule.epochs {schedule.epochs}" if schedule.steps is None else f"schedule.steps {schedule.steps}"
    say(
        f"fitted to weights, videos and machine: width {model.embed_dim}, depth {model.depth}, {clip.frames} frames of "
        f"{clip.size_px} px; batch.global {batch.global_}, {length}, learning rate "
        f"{recipe.learning_rate[0]:.2g} at its peak (floor {PEAK_RATE:g}), {recipe.engine.precision}; key=value replaces any"
    )


def warn_if_unmoved(folder: RunFolder, recipe: FinetuneRecipe) -> None:
    """Print a warning if the last losses on the labels are as high as those of guessing a class."""
    if recipe.task != CLASSES:
        return
    lines = map(json.loads, folder.metrics.read_text(encoding="utf-8").splitlines())
    losses = [line["loss/class"] for line in lines if "loss/class" in line]
    classes = len(read_json(folder.model / CONFIG_NAME)["classes"])
    end = losses[-max(len(losses) // 10, 1) :]
    if end and sum(end) / len(end) > UNMOVED * math.log(classes):
        say(
            f"warning: the loss has not moved: it ends at {sum(end) / len(end):.3f}, and guessing among {classes} classes gives "
            f"ln {classes} = {math.log(classes):.3f}. Raise optimizer.base_lr (the rate was {recipe.learning_rate[0]:.2g} at its "
            "peak) or schedule.epochs, or look whether the labels are those of the videos"
        )


def _batch(recipe: FinetuneRecipe, clips: int) -> dict[str, int]:
    """Return micro and global batch in clips: whole videos, in pairs where clips are mixed."""
    unit = recipe.data.clips_per_video * (2 if recipe.augmentation.mix is not None else 1)
    micro, total = recipe.batch.micro, recipe.batch.global_
    if recipe.states("batch.micro"):
        unit = micro
    if not recipe.states("batch.global"):
        total = unit * _power_of_two(min(clips // STEPS_PER_EPOCH, LARGEST_BATCH) // unit)
    if not recipe.states("batch.micro"):
        micro = unit * _power_of_two(min(total, LARGEST_MICRO) // unit)
        micro = micro if total % micro == 0 else unit
    return {"micro": micro, "global": total}


def _power_of_two(most: int) -> int:
    return 1 << max(most.bit_length() - 1, 0)


def _validated(values: dict[str, Any]) -> FinetuneRecipe:
    fitted = validate(values, "fit")
    assert isinstance(fitted, FinetuneRecipe)
    return fitted
