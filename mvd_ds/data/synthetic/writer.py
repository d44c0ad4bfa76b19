"""The writer of the sample set: H.264 videos with two independent labels, *what* moves and *how*, and their manifests.

``motion`` draws the path, a world of ``worlds`` the frames; this file encodes them and keeps the folder in order.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.synthetic.motion import HOW
from mvd_ds.data.synthetic.phrasing import captions_of, words_of
from mvd_ds.data.synthetic.rendering import draw_labels
from mvd_ds.data.synthetic.worlds import WORLDS, open_world
from mvd_ds.files import DISK_FULL, json_line, json_text, write_bytes, write_text

SETTINGS_FILE = "sample_set.json"
VERSION = 1
"""Version of the generator: sets of different versions hold different clips."""
FRAMES_PER_SECOND = 15
CLIPS_PER_JOB = 32
SHORTEST_FRAMES = 8
SMALLEST_PX = 16

#: Quality before size, and quick to decode: no frame waits for a later one, no loop filter, no arithmetic coding. At 48 px a
#: clip of 16 frames takes 11 kB and keeps 41 dB, where the default options take 2 kB and blur what moves fast.
ENCODER_OPTIONS = {"preset": "ultrafast", "crf": "16", "bf": "0", "tune": "fastdecode,zerolatency"}


class _Job(NamedTuple):
    """Clips ``first`` to ``last - 1`` of a split."""

    folder: Path
    world: str
    split: str
    seed: int
    first: int
    last: int
    size_px: int
    frames: int


def write_sample_set(
    folder: str | Path,
    train_clips: int,
    validation_clips: int,
    seed: int,
    size_px: int = 48,
    frames: int = 16,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    world: str = "digits",
) -> None:
    """Write ``train/*.mp4``, ``val/*.mp4`` and their manifests ``train.txt``, ``val.txt`` into ``folder``.

    Beside them, of a world that has captions, ``train.jsonl`` and ``val.jsonl`` name the same clips with captions, those of the
    held-out clips in phrasings of their own, and ``words_what.json`` and ``words_how.json`` name the classes for zero-shot.
    ``train/*.npz`` and ``val/*.npz`` hold targets of dense probes by name: where the digit is, the depth of a room, ...

    The clips depend on the seed, the size and the length alone; a larger set begins with the clips of a smaller one. An
    interrupted call is taken up where it stopped: every file appears complete or not at all, the manifests last. A set that
    is complete is left as it is.

    Args:
        folder: new or empty, or holding a set of the same settings.
        train_clips: number of clips in ``train.txt``.
        validation_clips: number of clips in ``val.txt``; they show other source images of the digits.
        seed: of everything random.
        size_px: side of the frames, even.
        frames: length of a clip; a motion always takes the whole clip.
        workers: processes that write; 0 or 1 writes in this one.
        on_progress: called with (clips written, clips of the set), in this process.
        world: name under ``WORLDS``.

    Raises:
        ConfigError: a setting out of range, a folder that holds something else, or one that cannot be written (full disk).
    """
    target = Path(folder).expanduser()
    settings: dict[str, int | str] = {
        "world": world,
        "version": VERSION,
        "train_clips": train_clips,
        "validation_clips": validation_clips,
        "seed": seed,
        "size_px": size_px,
        "frames": frames,
    }
    _check(settings)
    clips = {"train": train_clips, "val": validation_clips}
    try:
        if not _claim(target, settings):
            jobs = _jobs(target, world, clips, seed, size_px, frames)
            for done in _run(jobs, workers):
                if on_progress is not None:
                    on_progress(done, train_clips + validation_clips)
            _write_lists(target, world, clips, seed)
        elif on_progress is not None:
            on_progress(train_clips + validation_clips, train_clips + validation_clips)
    except OSError as error:
        reason = "the disk is full" if error.errno in DISK_FULL else error.strerror or error
        raise ConfigError(f"{target}: the sample set cannot be written: {reason}") from None


def _check(settings: dict[str, int | str]) -> None:
    if settings["world"] not in WORLDS:
        raise ConfigError(f"synthesize: there is no world {settings['world']}; there are {', '.join(WORLDS)}")
    for name, least in (("train_clips", 1), ("validation_clips", 1), ("size_px", SMALLEST_PX), ("frames", SHORTEST_FRAMES)):
        if int(settings[name]) < least:
            raise ConfigError(f"synthesize: {name} {settings[name]} is too small; choose at least {least}")
    if int(settings["size_px"]) % 2:
        raise ConfigError(f"synthesize: size_px {settings['size_px']} is odd; H.264 needs an even number of pixels")


def _claim(folder: Path, settings: dict[str, int | str]) -> bool:
    """Make ``folder`` the place of this set; return whether the set stands there already."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / SETTINGS_FILE
    if not record.exists():
        if any(not name.startswith(".") for name in os.listdir(folder)):
            raise ConfigError(f"{folder}: the folder holds other files; choose a new or empty one for the sample set")
        write_bytes(record, json.dumps(settings, indent=1).encode(), sync=False)
    try:
        found = json.loads(record.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{record}: not readable; delete the folder, or choose another one for the sample set")
    found.setdefault("world", "digits")  # a set of an earlier version
    for name, value in settings.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{folder}: holds a sample set with {name} {found.get(name)}, not {value}; delete it or choose another folder"
            )
    # A set of an earlier version has no captions or targets: its clips stay, what it lacks is written.
    lists = ["train.txt", "words_how.json"] if WORLDS[str(settings["world"])].has_captions else ["train.txt"]
    counts = {"train": settings["train_clips"], "val": settings["validation_clips"]}
    targets = [str(Path(clip_name(split, int(count) - 1)).with_suffix(".npz")) for split, count in counts.items()]
    return all((folder / name).exists() for name in [*lists, *targets])


def _jobs(folder: Path, world: str, clips: dict[str, int], seed: int, size_px: int, frames: int) -> list[_Job]:
    jobs = []
    for split, count in clips.items():
        (folder / split).mkdir(exist_ok=True)
        for first in range(0, count, CLIPS_PER_JOB):
            last = min(first + CLIPS_PER_JOB, count)
            jobs.append(_Job(folder, world, split, seed, first, last, size_px, frames))
    return jobs


def _run(jobs: list[_Job], workers: int) -> Iterator[int]:
    """Run the jobs and yield the number of clips that are there after each."""
    done = 0
    if workers <= 1:
        for job in jobs:
            done += _do(job)
            yield done
        return
    # Not forked: the caller may have threads (torch, TensorBoard), and a child of fork can inherit their locks.
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_do, job) for job in jobs]
        try:
            for future in as_completed(futures):
                done += future.result()
                yield done
        finally:
            pool.shutdown(cancel_futures=True)


def _do(job: _Job) -> int:
    """Write the clips of a job that are not there yet, and return the number of its clips."""
    for index in range(job.first, job.last):
        path = job.folder / clip_name(job.split, index)
        arrays = path.with_suffix(".npz")
        if path.exists() and arrays.exists():
            continue
        clip = open_world(job.world, job.seed, job.size_px, job.frames)(job.split, index)
        write_bytes(arrays, _packed(clip.arrays), sync=False)
        if not path.exists():
            write_bytes(path, encode(clip.pixels, WORLDS[job.world].key_frames), sync=False)
    return job.last - job.first


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    """Return an npz file of arrays."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def clip_name(split: str, index: int) -> str:
    """Return the path of a clip inside the set."""
    return f"{split}/{index:06d}.mp4"


def encode(pixels: np.ndarray, key_frames: int = 16) -> bytes:
    """Return an mp4 file of uint8 RGB frames (T, H, W, 3), the same bytes on every call."""
    file = io.BytesIO()  # so that a full disk shows in one place, as an OSError
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=ENCODER_OPTIONS | {"g": str(key_frames)})
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _write_captions(folder: Path, clips: dict[str, int], seed: int) -> None:
    """Write the manifests with captions, and the words of the classes; ``words_how.json`` last."""
    for split, count in clips.items():
        lines = [json_line({"labels": ["what", "how"]}), json_line({"classes": {"what": WORLDS["digits"].what, "how": HOW}})]
        for index in range(count):
            labels = draw_labels(seed, split, index)
            row = {"path": clip_name(split, index), "label": labels, "text": captions_of(seed, split, index, *labels)}
            lines.append(json_line(row))
        write_text(folder / f"{split}.jsonl", "\n".join(lines) + "\n", sync=False)
    for label in ("what", "how"):
        write_text(folder / f"words_{label}.json", json_text(words_of(label)), sync=False)


def _write_lists(folder: Path, world: str, clips: dict[str, int], seed: int) -> None:
    """Write the manifests; ``train.txt`` last, because it says that the set is complete."""
    if WORLDS[world].has_captions:
        _write_captions(folder, clips, seed)
    for split in ("val", "train"):
        lines = ["# labels: what how", "# classes: " + json.dumps({"what": WORLDS[world].what, "how": HOW})]
        for index in range(clips[split]):
            what, how = draw_labels(seed, split, index)
            lines.append(f"{clip_name(split, index)} {what} {how}")
        write_text(folder / f"{split}.txt", "\n".join(lines) + "\n", sync=False)
