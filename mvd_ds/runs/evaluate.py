"""This module tests a classifier, or a network of another task, as papers do (``evaluate``): several views of every video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mvd_ds.config import ConfigError, EvaluateRecipe
from mvd_ds.config.tasks import CLASSES
from mvd_ds.data.manifests.labels import Classes
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from mvd_ds.data.manifests.numbering import few_names
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.tokens import text_encoder
from mvd_ds.data.views import rank_groups, view_batches
from mvd_ds.data.words import read_words
from mvd_ds.evaluation.csv_files import csv_text
from mvd_ds.evaluation.predictions import Predictions, merge, predict, set_aside
from mvd_ds.evaluation.retrieval import RECALL
from mvd_ds.files import counted, one_line, write_json, write_text
from mvd_ds.models.adaptors.folder import open_zero_shot
from mvd_ds.models.classifiers.classifier import PixelClassifier
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, open_classifier
from mvd_ds.models.prompts.file import open_prompts, prompts_file
from mvd_ds.models.text.captioned import open_by_words
from mvd_ds.runs.results_folder import begin_results
from mvd_ds.runs.retrieving import KeptVectors
from mvd_ds.runs.tasks import TASKS
from mvd_ds.runs.tasks.task import Task
from mvd_ds.training.cluster import Cluster, launched_rank
from mvd_ds.training.console import StepProgress, say
from mvd_ds.training.engine.deepspeed_engine import DTYPES, joined_cluster
from mvd_ds.training.liveness.folder_owner import FolderOwner
from mvd_ds.training.run_folder import RunFolder, Status

PRODUCT = "evaluation.json"


def evaluate(recipe: EvaluateRecipe, name: str) -> Path:
    """Test a classifier, write ``evaluation.json`` and ``predictions.csv``, and return the run's folder.

    Raises:
        ConfigError: if classifier and manifest do not fit each other; on every rank.
    """
    folder = RunFolder.of(recipe, name)
    with joined_cluster(recipe.timeout_minutes, recipe.run.device) as cluster, FolderOwner(folder.path) as owner:
        with cluster.together():
            model, card = _open(recipe)
            recipe = _with_clip_of(recipe, card)
            manifest = read_manifest(recipe.data.manifest, recipe.data.root)
            label, labels = class_numbers(recipe, manifest, card)
        if begin_results(recipe, folder, PRODUCT, owner, cluster) is None:
            return folder.path
        status = Status(folder, last_step=len(labels)) if cluster.is_main else None
        groups = rank_groups(len(labels), max(recipe.batch // recipe.views.count, 1), cluster.rank, cluster.world)
        with KeptVectors(model, manifest) as kept:
            found, faults = _predict(recipe, model, card, manifest, groups, cluster)
        retrieved = kept.retrieval(groups, recipe.views.count, found, cluster)
        with cluster.together():
            if status is not None:
                _write(recipe, folder, card, manifest, label, labels, found, faults, retrieved)
                status.write("finished", len(labels), replaced_videos={})
    return folder.path


def _open(recipe: EvaluateRecipe) -> tuple[nn.Module, ClassifierCard]:
    """Return the classifier in its precision, or one by prompts, text vectors or words, and its card.

    Raises:
        ConfigError: if the files hold none.
    """
    dtype = DTYPES[recipe.precision]
    prompts = prompts_file(recipe.weights) if recipe.text_vectors is None and recipe.format is None else None
    if prompts is not None:
        words = None if recipe.words is None else read_words(recipe.words)
        return open_prompts(prompts, text_encoder, words and (words, words.words), dtype)
    if recipe.text_vectors is not None:
        return open_zero_shot(recipe.weights, recipe.text_vectors, recipe.adaptor, dtype)
    if recipe.words is not None:
        return open_by_words(recipe.weights, read_words(recipe.words), text_encoder, dtype)
    model, card = open_classifier(recipe.weights, recipe.format)
    return model.to(dtype), card


def _with_clip_of(recipe: EvaluateRecipe, card: ClassifierCard) -> EvaluateRecipe:
    """Return the recipe with the classifier's clip wherever it states nothing else.

    Raises:
        ConfigError: if it asks for clips that the network does not take.
    """
    theirs = card.preprocessing.clip
    clip = recipe.data.clip.over(theirs)
    for key in ("frames", "size_px"):
        if getattr(clip, key) != getattr(theirs, key):
            raise ConfigError(
                f"data.clip.{key} {getattr(clip, key)}: the classifier {recipe.weights} takes {getattr(theirs, key)}"
            )
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"clip": clip})})


def class_numbers(recipe: EvaluateRecipe, manifest: Manifest, card: ClassifierCard) -> tuple[str, np.ndarray]:
    """Return the name of the tested label, and each video's label as the classifier's task has it, (n, ...).

    Raises:
        ConfigError: if there is no such label, or a class that the classifier does not know.
    """
    task, numbered = TASKS[card.task], card.classes == tuple(str(number) for number in range(len(card.classes)))
    classes = Classes(recipe.label or card.label, card.classes, not numbered, recipe.data.classes_by_position)
    try:
        labels = task.match(manifest, classes, recipe.data.manifest)
    except ConfigError as error:
        if recipe.words is None:
            raise
        raise ConfigError(f"words {one_line(recipe.words)}, which name {few_names(card.classes)}: {error}") from None
    note = task.note(manifest, classes, recipe.data.manifest)
    if note and launched_rank() == 0:
        say(note)
    return classes.label if classes.label in manifest.every_label else manifest.every_label[0], labels


def _predict(
    recipe: EvaluateRecipe,
    model: nn.Module,
    card: ClassifierCard,
    manifest: Manifest,
    groups: Sequence[range],
    cluster: Cluster,
) -> tuple[Predictions, list[str]]:
    """Return the predictions of all videos and the faults of all ranks. Collective.

    Groups of videos do not depend on the number of processes, so neither do the numbers.
    """
    views = recipe.views
    faults: list[str] = []

    def batches() -> Any:
        for batch in view_batches(recipe.data, manifest, groups, views.segments, views.crops):
            faults.extend(batch.faults)
            yield batch

    total = sum(map(len, groups))
    progress = StepProgress(f"evaluate, {views.segments} x {views.crops} views", 0, total, enabled=cluster.is_main)
    network = PixelClassifier(model, card.preprocessing).to(cluster.device).eval()
    with cluster.together():
        own = predict(
            lambda clips: network(clips.to(cluster.device)),
            batches(),
            len(card.classes),
            recipe.batch,
            lambda seen: progress.update(seen, "videos of this process"),
            card.answer,
        )
        progress.close()
    parts = cluster.gather((own, faults))
    found, broken = set_aside(merge([part for part, _ in parts]))
    faults = [fault for _, listed in parts for fault in listed]
    return found, faults + [f"{manifest.refs.path(video)}: its outputs are not finite" for video in broken]


def _write(
    recipe: EvaluateRecipe,
    folder: RunFolder,
    card: ClassifierCard,
    manifest: Manifest,
    label: str,
    labels: np.ndarray,
    found: Predictions,
    faults: list[str],
    retrieved: dict[str, Any] | None,
) -> None:
    task = TASKS[card.task]
    figures = task.summarise(found, labels, card, recipe)
    for pair in figures.get("confused_pairs", ()):
        pair["examples"] = [_place(manifest.refs.location(video)) for video in pair["examples"]]
    results = {
        "weights": recipe.weights,
        "manifest": recipe.data.manifest,
        "label": label,
        **({} if recipe.words is None else {"words": recipe.words}),
        **({} if card.task == CLASSES else {"task": card.task}),
        "views": recipe.views.model_dump(),
        "classes": list(card.classes),
        **figures,
        "unreadable_videos": sorted(faults),
        **({} if retrieved is None else {"retrieval": retrieved}),
    }
    write_text(folder.path / "predictions.csv", csv_text(task.table(manifest, card, labels, found)))
    write_json(folder.path / PRODUCT, results)
    _say(results, task)


def _place(location: str | ByteRange) -> dict[str, str | int]:
    """Return the location of a video, a file of its own or a part of a shard, so that the page can show it."""
    if isinstance(location, str):
        return {"path": location}
    return {"path": location.name, "shard": location.path, "offset": location.offset, "size": location.size}


def _say(results: dict[str, Any], task: Task) -> None:
    views = results["views"]
    say(
        f"{counted(results['samples'], 'video')}, {views['segments']} x {views['crops']} views, label {results['label']}: "
        f"{task.words(results)}"
    )
    for way in ("text_to_video", "video_to_text") if "retrieval" in results else ():
        figures = results["retrieval"][way]
        recalls = ", ".join(f"R@{length} {100 * figures[f'r{length}']:.2f} %" for length in RECALL)
        chance = f"by chance R@1 {100 * figures['chance_r1']:.2f} %"
        say(f"{way.replace('_', ' ')}: {recalls}, median rank {figures['median_rank']:g}; {chance}")
    for fault in results["unreadable_videos"]:
        say(f"{task.unreadable}: {fault}")
