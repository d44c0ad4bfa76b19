"""One file in twenty broken, in eleven ways: the run ends well, names each, and all other clips are what they would have been."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from launching import launch, metrics
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.loader import ClipLoader
from shrinking import RECIPE, shipped
from video_files import write_video

FILES, STEPS = 200, 25
"""One epoch in steps of eight."""


def _sound(path: Path, **options: object) -> bytes:
    return write_video(path, frames=16, width=48, height=48, **options).read_bytes()  # type: ignore[arg-type]


def _without_index(path: Path) -> None:
    data = _sound(path)  # the index stands at the end
    path.write_bytes(data[: len(data) // 2])


def _cut_off(path: Path) -> None:
    data = _sound(path, container={"movflags": "faststart"})
    path.write_bytes(data[: data.index(b"mdat") + 40])


def _zeros_in_the_middle(path: Path) -> None:
    data = bytearray(_sound(path))
    start = data.index(b"mdat") + 40
    end = data.index(b"moov", start) - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)


def _only_sound(path: Path) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100, layout="mono")
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode())


def _endless(path: Path) -> None:
    """A sound FLV file that goes on with holes: FFmpeg takes them for empty tags, and reads a tebibyte of them."""
    write_video(path.with_suffix(".flv"), frames=4, width=48, height=48).rename(path)
    os.truncate(path, 1 << 40)


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty.mp4": lambda path: path.write_bytes(b""),
    "text.mp4": lambda path: path.write_text("not a video\n" * 100),
    "noise.mp4": lambda path: path.write_bytes(random.Random(0).randbytes(5000)),
    "index_missing.mp4": _without_index,
    "cut_off.mp4": _cut_off,
    "zeros.mp4": _zeros_in_the_middle,
    "sound.mp4": _only_sound,
    "missing.mp4": lambda path: None,
    "folder.mp4": lambda path: path.mkdir(),
    "fifo.mp4": os.mkfifo,
    "hangs.mp4": _endless,
}


@pytest.fixture(scope="module")
def manifests(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A list of 200 sound files, and the same with one in twenty broken."""
    folder = tmp_path_factory.mktemp("broken")
    lines = [line for line in (videos / "train.txt").read_text().splitlines() if not line.startswith("#")]
    sound = [f"{videos / line}" for line in lines]
    listed = [sound[number % len(sound)] for number in range(FILES)]
    (folder / "sound.txt").write_text("\n".join(listed) + "\n")
    for number, (name, make) in enumerate(BROKEN.items()):
        make(folder / name)
        listed[7 + 19 * number] = f"{folder / name} 0 0"
    (folder / "broken.txt").write_text("\n".join(listed) + "\n")
    return folder / "sound.txt", folder / "broken.txt"


def _settings(manifest: Path) -> list[str]:
    """With workers: a file that hangs must cost no more than itself."""
    return [f"data.manifest={manifest}", "data.workers=2", "data.stall_seconds=5", "data.max_bad_share=0.2"]


def test_all_other_clips_stay_as_they_were(manifests: tuple[Path, Path], shrunk: list[str]) -> None:
    streams: list[list[ClipBatch]] = []
    for manifest in manifests:
        recipe = shipped([*shrunk, *_settings(manifest)])
        streams.append(list(ClipLoader(recipe, recipe.drop_path_blocks, 0, 1).batches(0, STEPS)))
    broken = {7 + 19 * number for number in range(len(BROKEN))}
    replaced = 0
    for sound, other in zip(*streams, strict=True):
        assert torch.equal(sound.visible, other.visible) and torch.equal(sound.place, other.place)
        for row, sample in enumerate(sound.sample.tolist()):
            if sample in broken:
                replaced += 1
                assert other.sample[row].item() not in broken
                continue
            assert other.sample[row].item() == sample
            assert all(torch.equal(view[row], other.views[size][row]) for size, view in sound.views.items())
    assert replaced == len(BROKEN)
    faults = [fault for batch in streams[1] for fault in batch.faults]
    assert {Path(fault.partition(": ")[0]).name for fault in faults} == set(BROKEN)


@pytest.mark.launch
def test_the_run_ends_well_and_names_each(manifests: tuple[Path, Path], shrunk: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    length = [f"schedule.steps={STEPS}", "schedule.warmup_steps=1", f"run.save_every_steps={STEPS - 5}"]
    said = launch(2, "distill", RECIPE, *shrunk, *_settings(manifests[1]), *length, f"run.output={run}").stdout
    assert len(metrics(run)) == STEPS
    status = json.loads((run / "status.json").read_text())
    named = {Path(fault.partition(": ")[0]).name: fault.partition(": ")[2] for fault in status["replaced_videos"]}
    assert set(named) == set(BROKEN)
    assert all(named.values()) and "data.stall_seconds 5" in named["hangs.mp4"]
    assert all(name in said for name in BROKEN), said
    (saved,) = (run / "checkpoints").glob(f"step-*{STEPS}/manifest.json")
    quarantine = json.loads(saved.read_text())["extra"]["loader"]["quarantine"]
    assert {Path(entry["path"]).name for entry in quarantine} == {"hangs.mp4"}
