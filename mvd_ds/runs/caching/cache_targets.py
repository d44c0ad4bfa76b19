"""This module writes what the teachers of a distillation give of fixed views to disk (``cache-targets``)."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

import numpy as np
from torch import Tensor

from mvd_ds.config import ATTENTION, ConfigError, TrainingRecipe, differences
from mvd_ds.data.cached.files import file_bytes, file_name
from mvd_ds.data.cached.index import INDEX, CacheIndex, StoredOutput, read_index, write_index
from mvd_ds.data.cached.views import FixedClips
from mvd_ds.data.manifests.mixture import Mixture, read_mixture
from mvd_ds.files import counted, json_line
from mvd_ds.models.teachers import plan_teacher
from mvd_ds.runs.building import ask_teachers
from mvd_ds.runs.caching.filling import CacheFiller, ask, black, described
from mvd_ds.runs.caching.match import cache_facts, shown_flips
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.training.console import say
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.liveness.folder_owner import FolderOwner

BEGUN = "begun.json"
"""Name of the description of a cache that is being filled, in the form of the index."""


def cache_targets(recipe: TrainingRecipe, name: str) -> None:
    """Fill ``targets.cache`` of recipe ``name``; files that are whole already stay.

    Raises:
        ConfigError: if recipe, weights or videos do not fit, the folder holds other targets, or the disk is full; on every rank.
    """
    folder = _folder(recipe)
    crops = {"cache": None, "crops": recipe.targets.fixed_crops}
    asking = recipe.model_copy(update={"targets": recipe.targets.model_copy(update=crops)})
    with (
        joined_cluster(recipe.engine.timeout_minutes, recipe.run.device) as cluster,
        FolderOwner(folder, "targets.cache") as owner,
    ):
        with cluster.together():
            videos = read_mixture(recipe.data)
            job = FixedClips(asking, videos)
            plans = {key: plan_teacher(key, settings, asking) for key, settings in asking.teachers.items()}
        targets = ask_teachers(asking, plans, cluster)
        outputs = _outputs(asking, ask(asking, targets, black(asking, job, cluster.device)))
        with cluster.together():
            begun = _open(owner, folder, asking, videos, outputs) if cluster.is_main else None
        index: CacheIndex = cluster.broadcast(begun)
        missing = [number for number in range(index.files) if described(folder, number, index) is None]
        missing = cluster.broadcast(missing)
        started = time.monotonic()
        CacheFiller(folder, asking, index, job, targets, cluster).fill(missing)
        with cluster.together():
            if cluster.is_main:
                _close(folder, index, videos, job, missing, time.monotonic() - started)


def _folder(recipe: TrainingRecipe) -> Path:
    """Return the folder of the cache.

    Raises:
        ConfigError: if none is stated, or a target has no features.
    """
    if recipe.targets.cache is None:
        raise ConfigError("targets.cache: state the folder of the cache, targets.cache=FOLDER, here and in `distill`")
    if any(target.kind == "codes" for teacher in recipe.teachers.values() for target in teacher.targets.values()):
        raise ConfigError("targets.cache: a cache keeps features, and target.kind codes has none: remove targets.cache")
    return Path(recipe.targets.cache)


def _outputs(recipe: TrainingRecipe, given: dict[str, Tensor]) -> dict[str, StoredOutput]:
    """Return how everything that the teachers give is to be stored."""
    found = {}
    for name, values in given.items():
        if name == ATTENTION:  # one number a token
            found[name] = StoredOutput(tuple(values.shape[1:]), "fp32", _type_name(values))
            continue
        output = recipe.outputs[name]
        assert output.teacher is not None and output.target is not None
        width = values.shape[-1]
        parts = 3 if output.target.kind == "relations" else max(width // recipe.teachers[output.teacher].embed_dim, 1)
        groups = parts if recipe.targets.store == "int8" and width % parts == 0 else 1
        found[name] = StoredOutput(tuple(values.shape[1:]), recipe.targets.store, _type_name(values), groups)
    return found


def _type_name(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _open(
    owner: FolderOwner, folder: Path, recipe: TrainingRecipe, videos: Mixture, outputs: dict[str, StoredOutput]
) -> CacheIndex:
    """Make the folder, or go on in one that was begun for the same targets, and return what it is to hold.

    Raises:
        ConfigError: if another job fills it, it was begun for others, cannot be written, or the disk is too small.
    """
    if folder.is_file():
        raise ConfigError(f"targets.cache {folder}: is a file; name a folder")
    # Before digests are kept in it: nothing is written into a folder of others.
    is_begun = (folder / BEGUN).exists()
    if not is_begun and folder.exists() and any(inner.name not in ("digests.json", "control") for inner in folder.iterdir()):
        raise ConfigError(f"targets.cache {folder}: is not empty, and no cache of targets; choose another folder")
    owner.take()
    clips = sum(len(manifest.refs) for manifest in videos.manifests) * recipe.data.clips_per_video
    facts = cache_facts(recipe, contents_with_videos(recipe, folder / "digests.json"), videos)
    crops, flips = facts["targets"]["crops"], shown_flips(recipe)
    mark = hashlib.sha256(json_line(facts).encode()).hexdigest()[:16]
    wanted = CacheIndex(facts, outputs, clips, crops, flips, recipe.targets.clips_per_file, {}, {}, mark)
    if is_begun:
        held = read_index(folder, BEGUN)
        wanted = wanted._replace(mark=held.mark)  # of files that carry none yet, too
        lines = differences(held.as_json(), wanted.as_json())
        if lines:
            raise ConfigError(
                f"targets.cache {folder}: holds other targets: {'; '.join(lines)}; set them back, or choose another folder"
            )
    _write(folder, wanted, BEGUN)
    _require_room(folder, wanted)
    return wanted


def _write(folder: Path, index: CacheIndex, name: str) -> None:
    """Write an index.

    Raises:
        ConfigError: if the disk refuses.
    """
    try:
        write_index(folder, index, name)
    except OSError as error:
        raise ConfigError(f"targets.cache {folder}: {name} cannot be written: {error.strerror or error}") from None


def _require_room(folder: Path, index: CacheIndex) -> None:
    """Raise if the missing files do not fit on the disk.

    Raises:
        ConfigError: with both numbers.
    """
    missing = [number for number in range(index.files) if described(folder, number, index) is None]
    needed = sum(file_bytes(index, number) for number in missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"targets.cache {folder}: {needed / 2**30:,.1f} GiB are needed and {free / 2**30:,.1f} GiB of the disk are free; "
            "choose targets.store=int8 or bf16, fewer targets.crops, or another disk"
        )


def _close(folder: Path, index: CacheIndex, videos: Mixture, job: FixedClips, made: list[int], seconds: float) -> None:
    """Write the index over all files, and say what they hold.

    Raises:
        ConfigError: if a file is missing.
    """
    sums: dict[str, np.ndarray] = {}
    faults: dict[int, str] = {}
    for number in range(index.files):
        file = described(folder, number, index)
        if file is None:
            raise ConfigError(f"targets.cache {folder}: {file_name(number)} is missing; is it the same folder on every host?")
        faults |= {int(video): reason for video, reason in file["faults"].items()}
        for output, (error, square, largest) in file["errors"].items():
            held = sums.setdefault(output, np.zeros(3))
            sums[output] = np.array((held[0] + error, held[1] + square, max(held[2], largest)))
    errors = {
        name: {"relative_rms": float((error / max(square, 1e-30)) ** 0.5), "absolute": float(largest)}
        for name, (error, square, largest) in sums.items()
    }
    whole = index._replace(errors=errors, faults=faults)
    _write(folder, whole, INDEX)
    for video, reason in sorted(faults.items()):
        say(f"no targets: {job.path(video)}: {reason}")
    for name, output in whole.outputs.items():
        lost = errors[name]
        stated = f"relative RMS error {lost['relative_rms']:.2g}, largest {lost['absolute']:.2g}"
        exact = stated if lost["absolute"] else "exactly what was given"
        say(f"{name}: {' x '.join(map(str, output.shape))} in {output.store}, {exact}")
    done = sum(len(index.clips_of(number)) for number in made)
    rate = f"; {done / seconds:,.1f} clips/s" if done else "; nothing was missing"
    say(
        f"{counted(index.clips, 'clip')} x {counted(index.views, 'view')}, {index.clip_bytes:,} bytes a clip, in "
        f"{counted(index.files, 'file')} in {folder}{rate}; train with targets.cache={folder}"
    )
