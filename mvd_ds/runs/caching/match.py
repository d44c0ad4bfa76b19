"""The facts that decide what a teacher gives of a fixed view, and their comparison with those of a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from mvd_ds.config import ConfigError, TargetSettings, TeacherSettings, TrainingRecipe, differences, dump
from mvd_ds.config.inputs import RANDOM
from mvd_ds.data.cached.index import CacheIndex
from mvd_ds.data.manifests.mixture import Mixture
from mvd_ds.runs.inputs import VIDEOS, digest_of_sizes

#: Settings of a teacher that decide how it is computed or learnt from, not what it gives.
_OF_THE_RUN = {"weights", "placement", "chunk_clips", "cuda_graph", "attention", "activation_checkpointing", "drop_path"} | {
    *("decoder", "loss", "weight", "target", "more_targets", "size")
}
WEIGHTS = "content of weights"
"""Name of the digest of a teacher's weights among its facts."""


def cache_facts(recipe: TrainingRecipe, contents: Mapping[str, str], videos: Mixture) -> dict[str, Any]:
    """Return everything that decides what the teachers of ``recipe`` give of its fixed views, as JSON, by setting.

    Args:
        recipe: the run.
        contents: digests of its inputs by setting; weights that are not on this host have none.
        videos: its manifests.
    """
    clip = dump(recipe.data.clip)
    del clip["flip"]  # a cache holds both, or those that the run may show
    return {
        "run": {"seed": recipe.run.seed},
        "engine": {"precision": recipe.engine.precision},
        "model": {"patch_px": recipe.model.patch_px, "tubelet_frames": recipe.model.tubelet_frames},
        "targets": {"crops": recipe.targets.fixed_crops},
        "data": {"clip": clip, "clips_per_video": recipe.data.clips_per_video, "videos": _videos(contents, videos)},
        "teachers": {name: _teacher(name, recipe, contents) for name in recipe.teachers},
    }


def shown_flips(recipe: TrainingRecipe) -> tuple[bool, ...]:
    """Return the mirrorings of a view that a run may show: features of a mirrored clip are no mirrored features."""
    probability = recipe.data.clip.flip
    return tuple(flip for flip, share in ((False, 1 - probability), (True, probability)) if share > 0)


def require_match(recipe: TrainingRecipe, index: CacheIndex, contents: Mapping[str, str], videos: Mixture) -> None:
    """Raise if a cache does not hold what the teachers of ``recipe`` would give; it may hold more.

    Args:
        recipe: the run.
        index: that of its ``targets.cache``.
        contents: digests of its inputs by setting.
        videos: its manifests.

    Raises:
        ConfigError: in one line with every difference.
    """
    wanted = cache_facts(recipe, contents, videos)
    held = _as_wanted(index.facts, wanted)
    lines = [line.replace(": None -> ", ": not in the cache -> ") for line in differences(held, wanted)]
    if missing := [flip for flip in shown_flips(recipe) if flip not in index.flips]:
        lines.append(f"data.clip.flip: the cache has no {'mirrored' if missing[0] else 'unmirrored'} views")
    if lines:
        raise ConfigError(
            f"targets.cache {recipe.targets.cache}: holds other targets (cached -> wanted): {'; '.join(lines)}; set them back, "
            "or run `mvd_ds cache-targets` with this recipe into another folder"
        )


def _as_wanted(held: Any, wanted: Any, key: str = "") -> Any:
    """Return the held facts without teachers, targets and attention that are not wanted, or that cannot be compared."""
    if not isinstance(held, dict) or not isinstance(wanted, dict):
        return held
    kept = {name: _as_wanted(value, wanted.get(name), name) for name, value in held.items()}
    if key in ("teachers", "targets"):
        kept = {name: value for name, value in kept.items() if name in wanted}
    if WEIGHTS in wanted:
        if wanted["attention_blocks"] is None:
            kept["attention_blocks"] = None
        if wanted[WEIGHTS] is None:  # the weights are not on this host
            kept[WEIGHTS] = None
    return kept


def _videos(contents: Mapping[str, str], mixture: Mixture) -> dict[str, Any]:
    """Return number, names and sizes of the videos: names below the folder that all of a manifest share, which may move."""
    digest = hashlib.sha256()
    for manifest in mixture.manifests:
        paths = [manifest.refs.path(index) for index in range(len(manifest.refs))]
        shared = _shared_letters(paths)
        for path in paths:
            digest.update(path[shared:].encode(errors="surrogateescape") + b"\n")
    sizes = [value for key, value in contents.items() if key.startswith("data.") and key.endswith(f".{VIDEOS}")]
    if len(sizes) < len(mixture.manifests):  # folders, of whose videos ``contents`` has no sizes by themselves
        sizes = [digest_of_sizes(manifest.refs) for manifest in mixture.manifests]
    return {
        "number": sum(len(manifest.refs) for manifest in mixture.manifests),
        "names": digest.hexdigest(),
        "sizes": hashlib.sha256(" ".join(sizes).encode()).hexdigest(),
    }


def _shared_letters(paths: list[str]) -> int:
    """Return the length of the folder that all ``paths`` lie in; 0 where some are absolute and others are not."""
    if len({os.path.isabs(path) for path in paths}) > 1:
        return 0
    return len(os.path.commonpath([os.path.dirname(path) for path in paths]))


def _teacher(name: str, recipe: TrainingRecipe, contents: Mapping[str, str]) -> dict[str, Any]:
    teacher = recipe.teachers[name]
    if teacher.is_random:
        weights: str | None = f"{RANDOM}, of run.seed"
    else:
        weights = contents.get(f"teachers.{name}.weights")
    settings = {key: value for key, value in dump(teacher).items() if key not in _OF_THE_RUN}
    drawn = recipe.masking.blocks if recipe.masking.teacher == name else None
    targets = {suffix[1:] or "target": _target(teacher, target) for suffix, target in teacher.targets.items()}
    return {
        **settings,
        WEIGHTS: weights,
        "attention_blocks": list(drawn) if isinstance(drawn, tuple) else drawn,
        "targets": targets,
    }


def _target(teacher: TeacherSettings, target: TargetSettings) -> dict[str, Any]:
    """Return what decides the source of a target; scale, loss, weight and tokens are made of it later."""
    depth = teacher.depth if teacher.network is None else None
    blocks = [block % depth if depth else block for block in target.blocks]
    joined = len(set(blocks)) > 1 and target.kind not in ("summary", "relations")
    return {
        "kind": "features" if target.kind == "token_relations" else target.kind,
        "blocks": sorted(set(blocks)),
        # Predicted one by one or as one token, several blocks are kept side by side.
        "joined": ("mean" if target.mode == "mean" else "side by side") if joined else "one block",
        "summary": target.summary if target.kind == "summary" else "",
        "norm": target.norm if target.kind != "relations" else "none",
    }
