"""``bench data MANIFEST``: what a user's own files can feed, what limits them, and what preparing them would gain."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import av
import numpy as np

from mvd_ds.config import ConfigError, DataSettings, TrainingRecipe, load_recipe
from mvd_ds.data.location import Stretch, extension_of, read_bytes
from mvd_ds.data.manifest import read_manifest
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.video import DecodeError, one_line
from mvd_ds.tools import bench_stages, bench_stream
from mvd_ds.tools.bench_reference import EXPECTED_MS, reference_ms
from mvd_ds.tools.bench_sample import KINDS, reencode
from mvd_ds.training.provenance import machine, versions

READERS: tuple[str, ...] = get_args(DataSettings.model_fields["reader"].annotation)
_RECIPE = "videomae_base"
"""Whose clips are measured unless settings say otherwise: 16 frames, stride 4, 224 px, multi-scale crops."""
_MICRO = 8
CONSUMER_SHARE = 0.6
"""Of the loader's rate that the consumer takes which should not wait."""


class Options(NamedTuple):
    """How much is measured."""

    files: int = 16
    clips: int = 96
    rounds: int = 3
    clips_per_second: float | None = None
    """What the training is to be fed with; for the number of cores."""
    reference: bool = False
    """Also measure the usual pipeline, and the ratio to it."""
    prepare: bool = True
    """Also encode the files anew, in a temporary folder, and measure that."""


def measure(manifest: Path, overrides: Sequence[str], options: Options) -> dict[str, Any]:
    """Everything, as JSON.

    Raises:
        ConfigError: for a faulty manifest or setting, or if no file can be read.
    """
    recipe = clip_recipe(manifest, overrides)
    with tempfile.TemporaryDirectory(prefix="mvd_ds-bench-") as scratch:
        files, faults = _choose(recipe, options.files, Path(scratch) / "members")
        paths = [file.path for file in files]
        folders = {"as they are": paths}
        if options.prepare:
            folders |= {kind: _prepared(paths, Path(scratch) / kind, kind) for kind in KINDS if kind != "original"}
        recipes = {name: _on(recipe, paths, Path(scratch) / f"{name}.txt") for name, paths in folders.items()}
        clips = bench_stages.draw_clips(files, recipe.data.clip, options.clips)
        result = {
            "readers": _stages(clips, recipe, options.rounds),
            "streams": _streams(recipes, paths, options),
            "transport_ms": bench_stream.transport_ms(recipes["as they are"], 64 * _MICRO),
        }
        rate = result["streams"]["as they are"]["clips_per_second"]
        share = bench_stream.wait_share(recipes["as they are"], CONSUMER_SHARE * rate, 30)
    result["data_wait_share"] = {"at_share_of_rate": CONSUMER_SHARE, "share": share}
    return _summed_up(recipe, files, faults, options, result)


def clip_recipe(manifest: Path, overrides: Sequence[str]) -> TrainingRecipe:
    """The recipe whose clips are measured, on ``manifest``, with two workers unless ``overrides`` say otherwise.

    Raises:
        ConfigError: for a faulty setting, or no workers.
    """
    wanted = [f"data.manifest={manifest}", "data.workers=2", *overrides, f"batch.micro={_MICRO}", f"batch.global={_MICRO}"]
    recipe = load_recipe(_RECIPE, wanted)
    assert isinstance(recipe, TrainingRecipe)
    if not recipe.data.workers:
        raise ConfigError("data.workers 0: bench measures worker processes; give their number")
    return recipe


def _choose(recipe: TrainingRecipe, count: int, members: Path) -> tuple[list[bench_stages.File], dict[str, str]]:
    """Files of the manifest, drawn at random, and those drawn that cannot be read, with the reason.

    Members of shards are written to ``members``: reading them from a shard costs the same.
    """
    refs = read_manifest(recipe.data.manifest, recipe.data.root).refs
    files: list[bench_stages.File] = []
    faults = {}
    for index in keyed_generator(0, "files").permutation(len(refs))[: 2 * count].tolist():
        path = refs.path(index)
        try:
            file = bench_stages.look_at(_as_file(refs.location(index), members))
        except (av.FFmpegError, OSError, IndexError, DecodeError) as error:
            faults[path] = one_line(error)
            continue
        if file.frames and len(files) < count:
            files.append(file)
    if not files:
        path, reason = next(iter(faults.items()))
        raise ConfigError(f"{recipe.data.manifest}: none of the videos drawn can be read, for example {path}: {reason}")
    return files, faults


def _as_file(location: str | Stretch, members: Path) -> str:
    if isinstance(location, str):
        return location
    path = members / f"{location.offset}{extension_of(location)}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(read_bytes(location))
    return str(path)


def _prepared(paths: Sequence[str], folder: Path, kind: str) -> list[str]:
    """The files encoded as ``kind``, under numbers: their names may repeat."""
    return [str(reencode(Path(path), folder / str(number), kind)) for number, path in enumerate(paths)]


def _on(recipe: TrainingRecipe, paths: Sequence[str], listed: Path) -> TrainingRecipe:
    """``recipe`` on a manifest of ``paths``, each as often as it takes to fill a batch."""
    times = math.ceil(_MICRO / len(paths))
    listed.write_text("".join(f"{path}\n" for path in [*paths] * times))
    data = recipe.data.model_copy(update={"manifest": str(listed), "root": None, "sources": ()})
    return recipe.model_copy(update={"data": data})


def _stages(clips: Sequence[bench_stages.Clip], recipe: TrainingRecipe, rounds: int) -> dict[str, Any]:
    clip = recipe.data.clip
    measures = {reader: partial(bench_stages.measure_stages, clips, clip, reader) for reader in READERS}
    found = bench_stages.median_of(rounds, {**measures, "bound": partial(bench_stages.measure_bound, clips)})
    bounds = found.pop("bound")
    bound = {name: float(np.median([one[name] for one in bounds])) for name in bounds[0]}
    readers = {}
    for reader, rows in found.items():
        stages = bench_stages.median_stages(rows)
        if isinstance(stages, str):
            readers[reader] = {"refused": stages}
            continue
        over = [(s.open + s.decode) / b["clip_ms"] for s, b in zip(rows, bounds, strict=True)]
        readers[reader] = {**stages._asdict(), "total": stages.total, "over_bound": float(np.median(over))}
    return {"bound": bound, **readers}


def _streams(recipes: dict[str, TrainingRecipe], paths: Sequence[str], options: Options) -> dict[str, Any]:
    measures = {name: partial(bench_stream.loader_rate, recipe, options.clips) for name, recipe in recipes.items()}
    if options.reference:
        measures["reference"] = partial(bench_stream.reference_rate, recipes["as they are"], paths, options.clips)
        measures["reference alone"] = partial(reference_ms, paths, recipes["as they are"].data.clip, options.clips // 2)
    found = bench_stages.median_of(options.rounds, measures)
    alone = found.pop("reference alone", None)
    reference = found.get("reference")
    streams = {}
    for name, rates in found.items():
        streams[name] = {
            "clips_per_second": float(np.median([rate.clips_per_second for rate in rates])),
            "cpu_ms": float(np.median([rate.cpu_ms for rate in rates])),
        }
        if reference is not None and name != "reference":
            pairs = list(zip(rates, reference, strict=True))
            streams[name]["times_reference"] = float(np.median([a.clips_per_second / b.clips_per_second for a, b in pairs]))
            streams[name]["times_reference_by_cpu"] = float(np.median([b.cpu_ms / a.cpu_ms for a, b in pairs]))
    if alone is not None:
        streams["reference"]["alone_ms"] = float(np.median(alone))
    return streams


def _summed_up(
    recipe: TrainingRecipe, files: Sequence[bench_stages.File], faults: dict[str, str], options: Options, result: dict[str, Any]
) -> dict[str, Any]:
    streams = result["streams"]
    if options.reference and not EXPECTED_MS[0] <= streams["reference"]["alone_ms"] <= EXPECTED_MS[1]:
        # Measured on other files, or on another machine, it is no yardstick.
        for stream in streams.values():
            stream.pop("times_reference", None)
            stream.pop("times_reference_by_cpu", None)
    stages = result["readers"][recipe.data.reader]
    parts = {name: stages[name] for name in ("open", "decode", "crop")} | {"transport": result["transport_ms"]}
    result["limits"] = max(parts, key=lambda name: parts[name])
    for stream in streams.values():
        stream["clips_per_second_per_core"] = 1000 / stream["cpu_ms"]
        if options.clips_per_second:
            stream["cores_needed"] = options.clips_per_second * stream["cpu_ms"] / 1000
    size = float(np.mean([file.bytes for file in files]))
    return {
        "command": "bench data",
        "manifest": recipe.data.manifest,
        "clip": recipe.data.clip.model_dump(),
        "workers": recipe.data.workers,
        "options": options._asdict(),
        "files": {"measured": len(files), "mean_mb": size / 1e6, "mean_frames": float(np.mean([f.frames for f in files]))},
        "unreadable": faults,
        **result,
        "machine": machine(),
        "versions": versions(),
    }
