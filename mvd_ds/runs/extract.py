"""This module writes embeddings or tokens of every video (``features``) into files that any number of processes fills."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, FeaturesRecipe, Grid, differences, dump
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from mvd_ds.data.views import view_batches
from mvd_ds.evaluation.feature_files import FeatureFile, read_description, write_features, write_index
from mvd_ds.files import counted, read_json, write_json
from mvd_ds.models.adaptors.folder import open_adapted
from mvd_ds.models.building import open_encoder
from mvd_ds.models.classifiers.classifier_folder import trained_clip
from mvd_ds.models.classifiers.pooling import clip_features, clip_tokens, encoder_pooling
from mvd_ds.runs.extracting.windows import fill_windows, list_windows
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.runs.results_folder import require_own_folder, take_results_folder
from mvd_ds.training.cluster import Cluster, launched_rank
from mvd_ds.training.console import StepProgress, say
from mvd_ds.training.contents import compare_contents
from mvd_ds.training.engine.deepspeed_engine import DTYPES, joined_cluster
from mvd_ds.training.liveness.folder_owner import FolderOwner
from mvd_ds.training.run_folder import RunFolder, Status
from mvd_ds.training.step import normalise, to_unit

#: Settings that change no number of a file.
MAY_CHANGE = ("run.", "data.workers", "data.prefetch_batches", "data.stall_seconds", "data.max_bad_share", "timeout_minutes")
PRODUCT = "index.csv"


def extract(recipe: FeaturesRecipe, name: str) -> None:
    """Write the features of ``recipe`` into its folder; files that are there already stay.

    Raises:
        ConfigError: if network, clip or manifest do not fit, or the folder holds other features; on every rank.
    """
    folder = RunFolder.of(recipe, name)
    with joined_cluster(recipe.timeout_minutes, recipe.run.device) as cluster, FolderOwner(folder.path) as owner:
        with cluster.together():
            clip = recipe.data.clip.over(trained_clip(recipe.weights, recipe.format))
            recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"clip": clip})})
            manifest = read_manifest(recipe.data.manifest, recipe.data.root)
            forward = _forward(recipe, cluster.device)
        with cluster.together():
            if cluster.is_main:
                take_results_folder(owner, recipe)
                _open(recipe, folder, manifest, forward.grid, forward.every_frames)
        size = recipe.videos_per_file or (32 if recipe.tokens else 256)
        parts = [range(first, min(first + size, len(manifest.refs))) for first in range(0, len(manifest.refs), size)]
        status = Status(folder, last_step=len(manifest.refs)) if cluster.is_main else None
        if recipe.windows is not None:
            with cluster.together():
                own = fill_windows(recipe, folder.path, manifest, forward.run, cluster)
            found = {video: facts for part in cluster.gather(own) for video, facts in part.items()}
            with cluster.together():
                if status is not None:
                    list_windows(folder.path, manifest, found)
                    status.write("finished", len(manifest.refs), replaced_videos={})
            return
        with cluster.together():
            _fill(recipe, folder, manifest, forward.run, parts, cluster)
        with cluster.together():
            if status is not None:
                faults = _close(folder, manifest, len(parts))
                status.write("finished", len(manifest.refs), replaced_videos={})
                _say(folder, len(manifest.refs), len(parts), faults)


class Forward(NamedTuple):
    """A function from uint8 clips (n, C, T, H, W) to features (n, ...) on the CPU."""

    run: Callable[[Tensor], Tensor]
    grid: Grid | None
    """Grid (t, h, w) of the tokens of a clip, where features are tokens."""
    every_frames: int = 1
    """The network sees every n-th frame of the clip."""

    def __call__(self, clips: Tensor) -> Tensor:
        return self.run(clips)


def _forward(recipe: FeaturesRecipe, device: torch.device) -> Forward:
    """Return the function from uint8 clips (n, C, T, H, W) to features (n, ...) on the CPU."""
    if recipe.adaptor is not None:
        return _adapted_forward(recipe, recipe.adaptor, device)
    clip = recipe.data.clip
    encoder = open_encoder(recipe.weights, clip.frames, clip.size_px, recipe.format)
    dtype = DTYPES[recipe.precision]
    encoder = encoder.to(device, dtype).requires_grad_(False)
    if not -len(encoder.blocks) <= recipe.layer < len(encoder.blocks):
        raise ConfigError(
            f"layer {recipe.layer}: {recipe.weights} has {len(encoder.blocks)} blocks, 0 to {len(encoder.blocks) - 1}"
        )
    pooling = None if recipe.tokens else encoder_pooling(encoder, recipe.pooling).requires_grad_(False)
    stride = recipe.every_frames if encoder.settings.kind == "image" else 1

    def forward(clips: Tensor) -> Tensor:
        shown = normalise(to_unit(clips[:, :, ::stride].to(device)), dtype)
        if pooling is None:
            return clip_tokens(encoder, shown, recipe.layer).float().cpu()
        return clip_features(encoder, shown, pooling, recipe.layer).float().cpu()

    slots, rows, columns = encoder.grid
    frames = -(-clip.frames // stride) if encoder.settings.kind == "image" else slots
    return Forward(forward, (frames, rows, columns) if recipe.tokens else None, stride)


def _adapted_forward(recipe: FeaturesRecipe, name: str, device: torch.device) -> Forward:
    """Return the function from uint8 clips (n, C, T, H, W) to the answers of an adaptor (n, ...) on the CPU.

    Raises:
        ConfigError: if there is no such adaptor, or it gives no tokens where they are asked for, or takes other clips.
    """
    adapted, preprocessing = open_adapted(recipe.weights)
    is_summary, clip = adapted.require(name).is_summary, recipe.data.clip
    if is_summary and recipe.tokens:
        raise ConfigError(f"tokens: adaptor {name} of {recipe.weights} answers by one vector a clip; set tokens=false")
    for key in ("frames", "size_px"):
        if getattr(clip, key) != getattr(preprocessing.clip, key):
            raise ConfigError(
                f"data.clip.{key} {getattr(clip, key)}: the adaptors of {recipe.weights} take {getattr(preprocessing.clip, key)}"
            )
    dtype = DTYPES[recipe.precision]
    adapted.in_precision(dtype).to(device).requires_grad_(False)

    def forward(clips: Tensor) -> Tensor:
        answer = adapted.adapt(name, normalise(to_unit(clips.to(device)), dtype))
        return (answer if is_summary or recipe.tokens else answer.mean(dim=1)).cpu()

    return Forward(forward, adapted.encoder.grid if recipe.tokens else None)


def _open(recipe: FeaturesRecipe, folder: RunFolder, manifest: Manifest, grid: Grid | None = None, every_frames: int = 1) -> None:
    """Make the folder, or continue in one that was made for the same features of the same videos.

    Raises:
        ConfigError: if it was made for others.
    """
    stated = folder.path / "features.json"
    contents = contents_with_videos(recipe, folder.digests)
    wanted: dict[str, Any] = {
        "recipe": dump(recipe),
        "videos": len(manifest.refs),
        "digest": _digest(manifest),
        "contents": contents,
        "grid": grid,
        "token_frames": every_frames,
    }
    if stated.exists():
        found = read_json(stated)
        compared = compare_contents(found["recipe"], found.get("contents", {}), recipe, contents)
        wrong = [line for line in differences(compared.recipe, dump(recipe)) if not line.startswith(MAY_CHANGE)]
        if "weights" in compared.changed:
            wrong.append(f"weights: the content of {recipe.weights} is not what it was")
        if "data.manifest.videos" in compared.changed:
            wrong.append(f"videos of {recipe.data.manifest} were replaced under their names")
        if found["digest"] != wanted["digest"]:
            wrong.append(f"the videos of {recipe.data.manifest}: {found['videos']} -> {wanted['videos']}, or others")
        if wrong:
            raise ConfigError(
                f"{folder.path}: holds other features: {'; '.join(wrong)}; set them back, or choose another run.output"
            )
    require_own_folder(folder, recipe, contents)
    folder.open(recipe, contents)
    write_json(stated, wanted)


def _digest(manifest: Manifest) -> str:
    digest = hashlib.sha256()
    for index in range(len(manifest.refs)):
        digest.update(manifest.refs.path(index).encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def _fill(
    recipe: FeaturesRecipe,
    folder: RunFolder,
    manifest: Manifest,
    forward: Callable[[Tensor], Tensor],
    parts: list[range],
    cluster: Cluster,
) -> None:
    """Write those of this rank's files that are not complete yet."""
    mine = [number for number in range(cluster.rank, len(parts), cluster.world) if not read_description(folder.path, number)]
    total = sum(len(parts[number]) for number in mine)
    progress = StepProgress("features", 0, total, enabled=cluster.is_main and total > 0)
    done = 0
    for number in mine:
        rows: list[np.ndarray] = []
        videos: list[int] = []
        faults: dict[int, str] = {}
        size = max(recipe.batch // recipe.views.count, 1)
        groups = [parts[number][first : first + size] for first in range(0, len(parts[number]), size)]
        views = recipe.views
        for batch in view_batches(recipe.data, manifest, groups, views.segments, views.crops):
            rows.append(_features(forward, batch.clips[batch.ok], recipe.batch))
            videos += batch.videos[batch.ok].tolist()
            faults |= {video: _reason(manifest.refs.path(video), batch.faults) for video in batch.videos[~batch.ok].tolist()}
            done += len(batch.videos)
            progress.update(done, "videos of this process")
        array = np.concatenate(rows).astype(recipe.dtype)
        write_features(folder.path, number, recipe.file_format, array, videos, faults)
    progress.close()


def _reason(path: str, faults: list[str]) -> str:
    return next((fault.removeprefix(f"{path}: ") for fault in faults if fault.startswith(f"{path}: ")), "cannot be read")


@torch.inference_mode()
def _features(forward: Callable[[Tensor], Tensor], clips: Tensor, chunk: int) -> np.ndarray:
    """Return features fp32 (B, [views,] ...) of uint8 (B, views, C, T, H, W); a single view has no axis of its own."""
    if not len(clips):
        # Nothing of this batch could be read: one black clip says what shape a row has.
        return _features(forward, clips.new_zeros((1, *clips.shape[1:])), chunk)[:0]
    found = torch.cat([forward(part) for part in clips.flatten(0, 1).split(chunk)])
    return (found.unflatten(0, clips.shape[:2]) if clips.shape[1] > 1 else found).numpy()


def _close(folder: RunFolder, manifest: Manifest, count: int) -> list[str]:
    """Write the index over all files and return a line for each video without features."""
    files: list[FeatureFile] = []
    for number in range(count):
        file = read_description(folder.path, number)
        if file is None:
            raise ConfigError(f"{folder.path}: file {number} of {count} is missing; is it the same folder on every host?")
        files.append(file)
    paths = [manifest.refs.path(index) for index in range(len(manifest.refs))]
    write_index(folder.path, files, paths, manifest.labels, manifest.label_names, manifest.class_names)
    return [f"{paths[video]}: {text}" for file in files for video, text in file.faults.items()]


def _say(folder: RunFolder, videos: int, files: int, faults: list[str]) -> None:
    if launched_rank() != 0:
        return
    for fault in faults:
        say(f"no features: {fault}")
    say(f"{videos - len(faults)} of {counted(videos, 'video')} in {counted(files, 'file')} in {folder.path}, listed in {PRODUCT}")
