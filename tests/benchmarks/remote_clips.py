"""Clips/s from an S3 server on this machine beside local files, of the same shards, and the bytes that come for a clip.

    PYTHONPATH=.:tests python tests/benchmarks/remote_clips.py FOLDER [--workers N ...] [--videos N] [--batches N] [--rounds N]

Videos of `bench data` are prepared (H.264, shards) in FOLDER and put into a bucket of moto's server, a process of its own. A turn
reads batches of eight clips of 16 frames, stride 4, 224 px, after a first one, by the loader: local files; objects by groups of
pictures, none kept; whole objects, none kept; and all from the node's cache. The ways take turns, there and back.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mvd_ds.cli import main as command
from mvd_ds.config import TrainingRecipe, load_recipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.tools.bench.sample_videos import write_videos
from object_servers import ObjectServer, fill_bucket

UNKEPT = ["data.remote.cache_gib=0"]
WAYS = {"local": [], "groups": UNKEPT, "whole": UNKEPT, "cached": []}


def main() -> None:
    """Measure, and print one object of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--batches", type=int, default=12, help="batches of a turn")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    folder: Path = options.folder
    # Workers are forked from a process that starts with the first of them, and see the environment of that moment.
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= keys | {"AWS_ENDPOINT_URL": "http://127.0.0.1:5055", "MVD_DS_CACHE": str(folder / "cache")}
    shutil.rmtree(folder / "cache", ignore_errors=True)
    write_videos(folder / "videos", options.videos)
    prepared = folder / "prepared"
    assert command(["prepare", str(folder / "videos" / "list.txt"), str(prepared), "--encode", "h264", "--shards"]) == 0
    shutil.copytree(prepared, folder / "bare", dirs_exist_ok=True, ignore=shutil.ignore_patterns("0*.json", ".prepare"))
    found: dict[str, object] = {"bytes_of_a_clip": _bytes(folder)}
    server = subprocess.Popen(
        [sys.executable, "-c", "from moto.server import main; main(['-H', '127.0.0.1', '-p', '5055'])"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _fill(folder)
        found["clips_per_second"] = {
            str(workers): _rates(folder, workers, options.batches, options.rounds) for workers in options.workers
        }
    finally:
        server.kill()
    print(json.dumps(found, indent=2))


def _recipe(manifest: str, workers: int, overrides: list[str]) -> TrainingRecipe:
    settings = [f"data.manifest={manifest}", f"data.workers={workers}", "batch.micro=8", "batch.global=8", *overrides]
    recipe = load_recipe("mvd_base_from_base", settings)
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def _fill(folder: Path) -> None:
    """Put both copies into buckets, as soon as the server answers."""
    for attempt in range(240):
        try:
            fill_bucket(5055, "groups", folder / "prepared")
            break
        except ConnectionError:
            assert attempt < 239
            time.sleep(0.5)
    fill_bucket(5055, "whole", folder / "bare")


def _rates(folder: Path, workers: int, batches: int, rounds: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    manifests = {"local": str(folder / "prepared" / "train.txt"), "whole": "s3://whole/train.txt"}
    _rate(_recipe("s3://groups/train.txt", workers, []), batches)  # fills the cache
    for turn in range(2 * rounds):
        for way in list(WAYS)[:: 1 if turn % 2 == 0 else -1]:
            recipe = _recipe(manifests.get(way, "s3://groups/train.txt"), workers, WAYS[way])
            rates[way].append(_rate(recipe, batches))
    return {way: round(statistics.median(values), 2) for way, values in rates.items()}


def _rate(recipe: TrainingRecipe, batches: int) -> float:
    """Return the clips a second of ``batches`` batches after the first."""
    stream = ClipLoader(recipe, recipe.drop_path_blocks, 0, 1).batches(0, batches + 1)
    next(stream)
    started = time.perf_counter()
    clips = sum(len(batch.sample) for batch in stream)
    return clips / (time.perf_counter() - started)


def _bytes(folder: Path) -> dict[str, float]:
    """Return the mean bytes and requests of a clip by each way, as a web server of the same shards counts them."""
    counted: dict[str, float] = {}
    for way, name in (("groups", "prepared"), ("whole", "bare")):
        server = ObjectServer(folder / name)
        recipe = _recipe(f"{server.address}/train.txt", 0, UNKEPT)
        batches = list(ClipLoader(recipe, recipe.drop_path_blocks, 0, 1).batches(0, 8))
        clips = sum(len(batch.sample) for batch in batches)
        sizes = [size for method, path, size in server.faults.requests if method == "GET" and path.endswith(".tar")]
        counted |= {f"{way}_bytes": round(sum(sizes) / clips), f"{way}_requests": round(len(sizes) / clips, 2)}
        server.kill()
    return counted | {"groups_share": round(counted["groups_bytes"] / counted["whole_bytes"], 3)}


if __name__ == "__main__":
    main()
