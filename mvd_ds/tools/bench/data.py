"""The command ``bench data MANIFEST``: clips per second from a user's own files, the bottleneck, and the gain of ``prepare``."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import av
import numpy as np

from mvd_ds.config import ConfigError, DataSettings, TrainingRecipe, load_recipe
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.prepare.encode import DEFAULT_QUALITY, Encoding, encode
from mvd_ds.data.prepare.originals import Originals
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.readers.location import ByteRange, extension_of, read_bytes
from mvd_ds.data.readers.video import DecodeError, reason_of
from mvd_ds.data.remote.fetching import is_elsewhere
from mvd_ds.tools.bench import decode_stages, loader_rate
from mvd_ds.training.reporting.provenance import machine, versions

READERS: tuple[str, ...] = get_args(DataSettings.model_fields["reader"].annotation)
_RECIPE = "videomae_base"
"""Recipe whose clips are measured unless settings say otherwise: 16 frames, stride 4, 224 px, multi-scale crops."""
_MICRO = 8
KINDS = {"fastdecode": "h264", "mjpeg": "mjpeg"}
"""Encodings that are tried, and their codec of ``prepare --encode``."""
_COPIES = "mvd_ds-bench-copies"
"""Folder of what is copied out of shards, or fetched."""
CONSUMER_SHARE = 0.6
"""Share of the loader's rate that a consumer takes who should not wait."""


class DataBenchOptions(NamedTuple):
    """The number of files, clips and rounds to measure, and what else to measure."""

    files: int = 16
    clips: int = 96
    rounds: int = 3
    clips_per_second: float | None = None
    """Rate that the training needs, to compute the number of cores."""
    reference: bool = False
    """Also measure the usual pipeline, and the ratio to it."""
    prepare: bool = True
    """Also encode the files anew, as ``prepare`` does, in a temporary folder, and measure that."""
    short_side: int | None = None
    """Shorter side in pixels to which larger videos are scaled down when they are encoded."""


def measure(manifest: Path | str, overrides: Sequence[str], options: DataBenchOptions) -> dict[str, Any]:
    """Measure readers and loaders, and return the results as JSON values.

    Raises:
        ConfigError: for a faulty manifest or setting, or if no file can be read.
    """
    recipe = clip_recipe(manifest, overrides)
    with tempfile.TemporaryDirectory(prefix="mvd_ds-bench-") as scratch, decode_stages.one_thread():
        files, faults = _choose(recipe, options.files, Path(scratch) / _COPIES)
        files = _readable(files, recipe, options.clips, faults)
        paths = [file.path for file in files]
        folders = {"as they are": paths}
        if options.prepare:
            folders |= {kind: _prepared(paths, Path(scratch) / kind, kind, options.short_side) for kind in KINDS}
        recipes = {name: _on(recipe, paths, Path(scratch) / f"{name}.txt") for name, paths in folders.items() if paths}
        transport = loader_rate.transport_ms(recipes["as they are"], 64 * _MICRO)
        result = {
            "readers": _stages(
                decode_stages.draw_clips(files, recipe.data.clip, options.clips), recipe, options.rounds, transport
            ),
            "streams": _streams(recipes, paths, options),
        }
        for kind in set(KINDS) & set(recipes):
            result["streams"][kind]["mean_mb"] = float(np.mean([Path(path).stat().st_size for path in folders[kind]])) / 1e6
        rate = result["streams"]["as they are"]["clips_per_second"]
        share = loader_rate.wait_share(recipes["as they are"], CONSUMER_SHARE * rate, 30)
    result["data_wait_share"] = {"at_share_of_rate": CONSUMER_SHARE, "share": share}
    return _summed_up(recipe, files, faults, options, result)


def clip_recipe(manifest: Path | str, overrides: Sequence[str]) -> TrainingRecipe:
    """Return the recipe whose clips are measured, on ``manifest``, with two workers unless ``overrides`` say otherwise.

    Raises:
        ConfigError: for a faulty setting, or no workers.
    """
    wanted = [f"data.manifest={manifest}", "data.workers=2", *overrides, f"batch.micro={_MICRO}", f"batch.global={_MICRO}"]
    recipe = load_recipe(_RECIPE, wanted)
    assert isinstance(recipe, TrainingRecipe)
    if not recipe.data.workers:
        raise ConfigError("data.workers 0: bench measures worker processes; give their number")
    return recipe


def _choose(recipe: TrainingRecipe, count: int, members: Path) -> tuple[list[decode_stages.File], dict[str, str]]:
    """Return files of the manifest, drawn at random, and the reason by path for those that cannot be read.

    Members of shards and objects that are elsewhere are written to ``members``: reading them from a shard, or from the node's
    cache, costs the same.
    """
    originals = Originals()
    refs = read_manifest(recipe.data.manifest, recipe.data.root).refs
    files: list[decode_stages.File] = []
    faults = {}
    for index in keyed_generator(0, "files").permutation(len(refs))[: 2 * count].tolist():
        path = refs.path(index)
        try:
            file = decode_stages.look_at(_as_file(refs.location(index), originals, members / str(index)))
        except (av.FFmpegError, OSError, IndexError, DecodeError) as error:
            faults[path] = reason_of(error)
            continue
        if file.frames and len(files) < count:
            files.append(file)
    if not files:
        raise ConfigError(f"{recipe.data.manifest}: none of the videos drawn can be read, for example {_first(faults)}")
    return files, faults


def _as_file(location: str | ByteRange, originals: Originals, copy: Path) -> str:
    """Return the path of a file with the bytes of ``location``: its own, or ``copy`` with its extension."""
    if isinstance(location, str) and not is_elsewhere(location):
        return os.path.abspath(location)
    path = copy.with_name(f"{copy.name}{extension_of(location)}")
    path.parent.mkdir(exist_ok=True)
    with originals.here(location) as here:
        path.write_bytes(read_bytes(here))
    return str(path)


def _readable(
    files: list[decode_stages.File], recipe: TrainingRecipe, clips: int, faults: dict[str, str]
) -> list[decode_stages.File]:
    """Return the files whose clips the recipe's reader can read; add the others to ``faults``."""
    drawn = decode_stages.draw_clips(files, recipe.data.clip, max(clips, len(files)))
    faults |= decode_stages.readable(drawn, recipe.data.reader)[1]
    good = [file for file in files if file.path not in faults]
    if not good:
        raise ConfigError(f"{recipe.data.manifest}: none of the videos drawn can be read, for example {_first(faults)}")
    return good


def _first(faults: dict[str, str]) -> str:
    return ": ".join(next(iter(faults.items())))


def _prepared(paths: Sequence[str], folder: Path, kind: str, short_side: int | None) -> list[str]:
    """Return the files as ``prepare`` encodes them, under numbers, since names may repeat; leave out those that it cannot."""
    encoding = Encoding(KINDS[kind], DEFAULT_QUALITY[KINDS[kind]], short_side_px=short_side)
    made = []
    for number, path in enumerate(paths):
        target = folder / f"{number}.mp4"
        try:
            encode(path, target, encoding)
        except DecodeError:
            continue
        made.append(str(target))
    return made


def _on(recipe: TrainingRecipe, paths: Sequence[str], listed: Path) -> TrainingRecipe:
    """Return ``recipe`` on a manifest of ``paths``, each as often as it takes to fill a batch."""
    times = math.ceil(_MICRO / len(paths))
    listed.write_text("".join(f"{path}\n" for path in [*paths] * times))
    data = recipe.data.model_copy(update={"manifest": str(listed), "root": None, "sources": ()})
    return recipe.model_copy(update={"data": data})


def _stages(clips: Sequence[decode_stages.Clip], recipe: TrainingRecipe, rounds: int, transport: float) -> dict[str, Any]:
    """Return milliseconds of each stage by reader, and the ratio of opening and decoding to the lower bound."""
    readers: dict[str, Any] = {}
    readable: dict[str, list[decode_stages.Clip]] = {}
    for reader in READERS:
        try:
            readable[reader], refused = decode_stages.readable(clips, reader)
        except ConfigError as error:
            readable[reader], refused = [], {"every file": str(error)}
        readers[reader] = {"clips": len(readable[reader]), "refused": refused}
    measures: dict[str, Callable[[], Any]] = {
        reader: partial(decode_stages.measure_stages, some, recipe.data.clip, reader) for reader, some in readable.items() if some
    }
    files = {clip.file.path for clip in clips}
    found = decode_stages.median_of(rounds, {**measures, "frame_ms": partial(decode_stages.measure_frame_ms, files)})
    frame_ms = found.pop("frame_ms")
    for reader, rows in found.items():
        stages, frames = decode_stages.median_stages(rows), decode_stages.frames_to_decode(readable[reader])
        over = [(row.open + row.decode) / (cost * frames) for row, cost in zip(rows, frame_ms, strict=True)]
        spent = {**stages._asdict(), "transport": transport}
        readers[reader] |= {**spent, "total": sum(spent.values()), "over_bound": float(np.median(over))}
    cost, frames = float(np.median(frame_ms)), decode_stages.frames_to_decode(clips)
    return {"bound": {"frame_ms": cost, "frames": frames, "clip_ms": cost * frames}, **readers}


def _streams(recipes: dict[str, TrainingRecipe], paths: Sequence[str], options: DataBenchOptions) -> dict[str, Any]:
    measures: dict[str, Callable[[], Any]] = {
        name: partial(loader_rate.loader_rate, recipe, options.clips) for name, recipe in recipes.items()
    }
    if options.reference:
        measures["reference"] = partial(loader_rate.reference_rate, recipes["as they are"], paths, options.clips)
        measures["reference alone"] = partial(
            loader_rate.reference_ms, paths, recipes["as they are"].data.clip, options.clips // 2
        )
    found = decode_stages.median_of(options.rounds, measures)
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
    recipe: TrainingRecipe,
    files: Sequence[decode_stages.File],
    faults: dict[str, str],
    options: DataBenchOptions,
    result: dict[str, Any],
) -> dict[str, Any]:
    streams = result["streams"]
    if options.reference and not loader_rate.EXPECTED_MS[0] <= streams["reference"]["alone_ms"] <= loader_rate.EXPECTED_MS[1]:
        # Measured on other files, or on another machine, it is no yardstick.
        for stream in streams.values():
            stream.pop("times_reference", None)
            stream.pop("times_reference_by_cpu", None)
    stages = result["readers"][recipe.data.reader]
    parts = {name: stages[name] for name in ("open", "decode", "crop", "transport")}
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
        "copied": sum(Path(file.path).parent.name == _COPIES for file in files),
        "unreadable": faults,
        **result,
        "machine": machine(),
        "versions": versions(),
    }
