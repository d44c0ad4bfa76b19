"""This module trains a pretrained encoder and a new head to classify (``finetune``), under the engine of every training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from mvd_ds.config import ConfigError, FinetuneRecipe, PreprocessingSettings
from mvd_ds.data.augmentation.labelled import LabelledClips
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.labels import Classes
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.manifests.mixture import Mixture, read_mixture
from mvd_ds.data.manifests.numbering import require_same_classes
from mvd_ds.data.prepare.writing import is_listable, manifest_text
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.files import counted, one_line
from mvd_ds.models.acceleration.compiled import compile_blocks, wants_compiling
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, open_classifier
from mvd_ds.models.flops import classifier_flops
from mvd_ds.runs.adapting.adapted import ADAPTED, place_frozen
from mvd_ds.runs.adapting.pooling_pictures import PoolingPictures, plan_pooling_pictures
from mvd_ds.runs.fitting import describe_fit, fit_to_videos, fit_to_weights, require_same_fit, warn_if_unmoved
from mvd_ds.runs.in_cluster import fail_in_cluster, run_in_cluster
from mvd_ds.runs.tasks import TASKS
from mvd_ds.runs.trainer import Trainer, describe_batches, describe_parameters
from mvd_ds.runs.validation import HELD_OUT, ClipValidation, HeldOut
from mvd_ds.training.classification import Classification
from mvd_ds.training.cluster import Cluster, launched_rank
from mvd_ds.training.console import say
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import DTYPES
from mvd_ds.training.engine.deepspeed_start import start_student, start_teacher
from mvd_ds.training.optim import group_rows, parameter_groups
from mvd_ds.training.reporting.memory import MemoryMonitor
from mvd_ds.training.run_folder import FINISHED, RunFolder

#: Times that a forward pass is taken by a step: a frozen map has the gradients of its inputs, not of its weights.
PASSES = {"full": 3, "lora": 2, "frozen": 1, "coop": 1, "cocoop": 1, "metaprompt": 3, "vpt": 2}


class LabelledVideos(NamedTuple):
    """The videos that a network learns from, and those that it is measured on."""

    classes: Classes
    training: Mixture
    labels: np.ndarray
    """Labels (n, ...) of the task, through all manifests of the mixture."""
    held_out: HeldOut | None


def finetune(recipe: FinetuneRecipe, name: str) -> int:
    """Fine-tune ``recipe`` to its end, from its newest checkpoint if there is one.

    Returns:
        Exit code of where it stands: ``run_folder.EXIT_CODES``.

    Raises:
        ConfigError: for whatever the user can mend; on every rank, before or during training.
    """
    try:
        fitted = fit_to_weights(recipe)
        if recipe.fit:
            fitted = fit_to_videos(fitted, recipe, len(read_labelled(fitted).labels))
    except ConfigError as fault:
        fail_in_cluster(recipe, fault)
    code = run_in_cluster(fitted, name, lambda folder, cluster: _finetune(fitted, folder, cluster))
    if code == FINISHED and launched_rank() == 0:
        warn_if_unmoved(RunFolder.of(fitted, name), fitted)
    return code


def _finetune(recipe: FinetuneRecipe, folder: RunFolder, cluster: Cluster) -> Trainer:
    pin = cluster.device.type == "cuda"
    with cluster.together():
        videos = read_labelled(recipe)
        card = card_of(recipe, videos)
        clips = LabelledClips(recipe, videos.training, TASKS[recipe.task].learnt(videos.labels, card.scale))
        loader = ClipLoader(recipe, recipe.drop_path_blocks, cluster.rank, cluster.world, clips, pin)
        adapted = ADAPTED[recipe.adaptation.kind](recipe, videos.classes)
        model = adapted.model
        teacher = _open_teacher(recipe, videos.classes)
        held_out = videos.held_out.manifest if videos.held_out else None
        drawn = plan_pooling_pictures(recipe, videos.training.manifests[0], held_out)
    require_same_fit(recipe, cluster)
    groups = parameter_groups(model, recipe.optimizer)
    if cluster.is_main:
        describe_fit(recipe)
        _describe(recipe, cluster, model, loader, groups, videos)
    rows, memory = group_rows(groups), MemoryMonitor(cluster)
    engine = start_student(model, groups, recipe, cluster)
    place_frozen(adapted, cluster.device, DTYPES[recipe.engine.precision])
    if wants_compiling(recipe.engine.compile, cluster.device):
        compile_blocks(engine.module, "classifier")
    ema = Ema(engine, recipe.optimizer.ema_decay, recipe.optimizer.ema_decay_end)

    def objective() -> tuple[Classification, dict[str, Any]]:
        placed: dict[str, Any] = dict(adapted.frozen)
        if teacher is not None and recipe.teacher is not None:
            placed["teacher"] = start_teacher(teacher, recipe.teacher.placement, recipe, cluster)
            if wants_compiling(recipe.engine.compile, cluster.device):
                network = getattr(placed["teacher"], "module", placed["teacher"])
                assert isinstance(network, Classifier)
                compile_blocks(network, "teacher")
        return adapted.objective(engine, placed.get("teacher"), cluster), placed

    def export(part: str, weights: dict[str, Tensor], beside: dict[str, Any]) -> None:
        adapted.save(folder.path / part, engine.module, weights, card, beside)

    def export_last(weights: dict[str, Tensor], average: dict[str, Tensor] | None, step: int, _: dict[str, Tensor]) -> None:
        export(folder.model.name, average or weights, {"step": step})

    validation, last = None, recipe.schedule.last_step(loader.steps_per_epoch)
    if videos.held_out is not None:
        every = recipe.validation.every_epochs * loader.steps_per_epoch
        validation = ClipValidation(recipe, videos.held_out, card, engine, ema, cluster, folder, export, every, last)
    pictures = drawn and PoolingPictures(recipe, folder, cluster, engine, drawn, card.classes, last)
    flops = _training_flops(recipe, videos.classes, teacher)
    return Trainer(
        recipe, folder, cluster, loader, engine, ema, objective, flops, export_last, memory, validation, pictures, rows
    )


def read_labelled(recipe: FinetuneRecipe) -> LabelledVideos:
    """Return manifests, classes and labels of ``recipe``.

    Raises:
        ConfigError: if a manifest or its labels cannot be used, or the two do not belong together.
    """
    data, validation = recipe.data, recipe.validation
    mixture = read_mixture(data)
    origins = [source.manifest for source in data.sources] or [data.manifest]
    task = TASKS[recipe.task]
    classes, labels = task.read(mixture.manifests, origins, recipe)
    if validation.manifest is None:
        return _hold_out(LabelledVideos(classes, mixture, labels, None), recipe)
    held_out = read_manifest(validation.manifest, validation.root, "validation.manifest")
    theirs = task.match(held_out, classes, f"validation.manifest {validation.manifest}")
    return LabelledVideos(classes, mixture, labels, HeldOut(data, held_out, theirs))


def _hold_out(videos: LabelledVideos, recipe: FinetuneRecipe) -> LabelledVideos:
    """Return ``videos`` without ``validation.share`` of each class, which are held out; one at least stays in each part.

    Videos of which ``held_out.txt`` cannot hold the name stay in the training.
    """
    share, labels, task = recipe.validation.share, videos.labels, TASKS[recipe.task]
    if not share:
        return videos
    if len(videos.training.manifests) > 1:
        raise ConfigError("validation.share: divides one manifest, and data.sources has several; set validation.manifest")
    (manifest,) = videos.training.manifests
    listable = np.array([is_listable(manifest.refs.path(row)) for row in range(len(labels))], bool)
    held_out = np.zeros(len(labels), bool)
    for number, rows in enumerate(task.parts(videos.classes, labels)):
        named = rows[listable[rows]]
        count = min(max(round(share * len(rows)), 1), len(rows) - 1, len(named))
        if count > 0:
            held_out[keyed_generator(0, "held out", number).choice(named, count, replace=False)] = True
    if not held_out.any():
        return videos
    training, held = manifest.part(np.flatnonzero(~held_out)), manifest.part(np.flatnonzero(held_out))
    classes = videos.classes.names if videos.classes.named else ()
    listing = manifest_text(held, task.written(labels[held_out]), videos.classes.label, classes, Path(HELD_OUT))
    return LabelledVideos(
        videos.classes,
        Mixture((training,), videos.training.weights),
        labels[~held_out],
        HeldOut(recipe.data, held, labels[held_out], listing),
    )


def learnt_and_held_out(videos: LabelledVideos) -> list[str]:
    """Return the paths of held-out videos that lines of the training have, too."""
    if videos.held_out is None:
        return []
    lists = [manifest.refs for manifest in videos.training.manifests]
    learnt = {os.path.abspath(refs.path(row)) for refs in lists for row in range(len(refs))}
    held = videos.held_out.manifest.refs
    return [path for path in map(held.path, range(len(held))) if os.path.abspath(path) in learnt]


def card_of(recipe: FinetuneRecipe, videos: LabelledVideos) -> ClassifierCard:
    """Return what the network's outputs stand for; with ``keep_head`` they are those of the head that it begins with.

    Raises:
        ConfigError: if the labels have no scale, or the head is of another task or of other classes.
    """
    classes, scale = videos.classes, TASKS[recipe.task].scale(videos.labels, recipe.data.manifest)
    if recipe.keep_head and recipe.weights is not None:
        origin = f"keep_head: weights {recipe.weights}"
        _, kept = open_classifier(recipe.weights)
        if kept.task != recipe.task:
            raise ConfigError(f"{origin}: its head is of task {kept.task}, and this recipe's is {recipe.task}")
        if scale is None and len(kept.classes) == len(classes.names):  # else the head itself is refused
            require_same_classes(kept.classes, classes.names, origin)
        scale = kept.scale
    return ClassifierCard(classes.names, PreprocessingSettings(clip=recipe.data.clip), classes.label, recipe.task, scale)


def _open_teacher(recipe: FinetuneRecipe, classes: Classes) -> Classifier | None:
    """Return the frozen teacher of ``recipe``, or None if it has none.

    Raises:
        ConfigError: if it is no classifier, or of other classes or clips.
    """
    if recipe.teacher is None:
        return None
    origin = f"teacher.weights {recipe.teacher.weights}"
    model, card = open_classifier(recipe.teacher.weights)
    if card.task != recipe.task:
        raise ConfigError(f"{origin}: was trained for task {card.task}, and this recipe's is {recipe.task}")
    if model.head.out_features != len(classes.names):
        raise ConfigError(f"{origin}: tells {model.head.out_features} classes, the manifest has {len(classes.names)}")
    require_same_classes(card.classes, classes.names, origin)
    clip, wanted = card.preprocessing.clip, recipe.data.clip
    if (clip.frames, clip.size_px) != (wanted.frames, wanted.size_px):
        raise ConfigError(
            f"{origin}: sees clips of {clip.frames} frames and {clip.size_px} px, data.clip has {wanted.frames} and "
            f"{wanted.size_px}; they have to be the same"
        )
    return model.requires_grad_(False)


def _training_flops(recipe: FinetuneRecipe, classes: Classes, teacher: Classifier | None) -> float:
    """Return the FLOPs of a training step per clip; the teacher counts for its forward pass alone.

    Those of products of low rank, of the backward pass of a head on a frozen encoder, and of texts are left out.
    """
    count = len(classes.names)
    own = PASSES[recipe.adaptation.kind] * classifier_flops(recipe.model, recipe.grid, count, recipe.pooling)
    if teacher is None:
        return own
    return own + classifier_flops(teacher.encoder.settings, teacher.encoder.grid, count, teacher.pooling.settings)


def _describe(
    recipe: FinetuneRecipe,
    cluster: Cluster,
    model: nn.Module,
    loader: ClipLoader,
    groups: list[dict[str, Any]],
    videos: LabelledVideos,
) -> None:
    """Print batches, classes, teacher and parameters before training starts."""
    say(describe_batches(recipe, cluster, loader))
    for line in loader.describe(recipe.schedule.last_step(loader.steps_per_epoch)):
        say(line)
    held_out = f"{len(videos.held_out.labels)} held-out videos" if videos.held_out else "nothing held out: no figures"
    task = TASKS[recipe.task]
    say(f"{task.counted(videos.classes)}, {len(videos.labels)} videos, {held_out}")
    for manifest in (*videos.training.manifests, *([videos.held_out.manifest] if videos.held_out else [])):
        if note := task.note(manifest, videos.classes, manifest.name):
            say(note)
    if cluster.is_main and (seen := learnt_and_held_out(videos)):
        say(
            f"warning: {counted(len(seen), 'held-out video')} can be learnt from, too, the first {one_line(seen[0])}: "
            "figures of what was learnt by heart say nothing; name every video once, and in one of the lists"
        )
    if recipe.teacher is not None:
        say(f"teacher: logits of {recipe.teacher.weights}, {recipe.teacher.placement}, weight {recipe.teacher.weight}")
    say(describe_parameters(recipe, cluster, model, groups))
