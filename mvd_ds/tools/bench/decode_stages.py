"""The cost of one clip by stage and reader, and its lower bound."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import av
import numpy as np
import torch

from mvd_ds.config import ClipSettings
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.readers.decode import open_video
from mvd_ds.data.readers.pyav_container import CONTAINER_OPTIONS
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.transforms import CROPS, cut


class Stages(NamedTuple):
    """CPU milliseconds for one clip, over all threads of the process."""

    open: float
    decode: float
    crop: float


class File(NamedTuple):
    """A video as its packets describe it."""

    path: str
    frames: int
    keys: list[int]
    """Numbers of the key frames, in order of presentation."""
    bytes: int
    fps: float = 0.0


class Clip(NamedTuple):
    """A file and the frames that are read of it."""

    file: File
    indices: np.ndarray


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch in one thread, as in the loader's workers: on busy cores more threads burn time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def look_at(path: str) -> File:
    """Return length and key frames of the video ``path``.

    Raises:
        av.FFmpegError: if it cannot be read.
    """
    with av.open(path, metadata_errors="ignore", container_options=CONTAINER_OPTIONS) as container:
        packets = [p for p in container.demux(video=0) if p.size and p.pts is not None and not p.is_discard]
        packets.sort(key=lambda packet: packet.pts or 0)
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        fps = float(container.streams.video[0].average_rate or 0)
        return File(path, len(packets), keys, container.size, fps)


def draw_clips(files: Sequence[File], clip: ClipSettings, count: int) -> list[Clip]:
    """Return ``count`` clips from the files in turn, at the places where training would begin them."""
    clips = []
    for number in range(count):
        file = files[number % len(files)]
        generator = keyed_generator(0, "bench", number)
        clips.append(Clip(file, frame_indices(file.frames, clip, generator, file.fps)))
    return clips


def readable(clips: Sequence[Clip], reader: str) -> tuple[list[Clip], dict[str, str]]:
    """Return the clips that ``reader`` can read, and the reason by path for the others; this brings the files into memory.

    Raises:
        ConfigError: if the reader cannot be used on this machine.
    """
    found, refused = [], {}
    for clip in clips:
        try:
            with open_video(clip.file.path, reader) as video:
                video.get(clip.indices)
        except DecodeError as error:
            refused[clip.file.path] = str(error)
        else:
            found.append(clip)
    return found, refused


def measure_stages(clips: Sequence[Clip], settings: ClipSettings, reader: str) -> Stages:
    """Return the mean cost of the clips, all of which ``reader`` can read."""
    spent = np.zeros(3)
    out = torch.empty((3, settings.frames, settings.size_px, settings.size_px), dtype=torch.uint8)
    for number, clip in enumerate(clips):
        times = [time.process_time()]
        video = open_video(clip.file.path, reader)
        times.append(time.process_time())
        frames = video.get(clip.indices)
        video.close()
        times.append(time.process_time())
        generator = keyed_generator(0, "crop", number)
        box = CROPS[settings.crop](frames.shape[1], frames.shape[2], settings.size_px, generator)
        out.copy_(cut(frames, box, settings.size_px, interpolation=settings.interpolation))
        times.append(time.process_time())
        spent += np.diff(times)
    return Stages(*(1000 * spent / len(clips)).tolist())


def measure_frame_ms(files: Iterable[str]) -> float:
    """Return CPU milliseconds per frame of sequential decoding by PyAV, in one thread, without conversion."""
    began = time.process_time()
    decoded = sum(_decode_all(path) for path in files)
    return 1000 * (time.process_time() - began) / decoded


def frames_to_decode(clips: Sequence[Clip]) -> float:
    """Return the mean number of frames that a clip must decode, from the key frame before it on."""
    return statistics.fmean(_frames_to_decode(clip) for clip in clips)


def median_of(rounds: int, measures: dict[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Take every measure ``rounds`` times, in turns, so that other work on the machine disturbs all of them alike."""
    found: dict[str, list[Any]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def median_stages(found: Sequence[Stages]) -> Stages:
    """Return the median of each stage."""
    return Stages(*(statistics.median(column) for column in zip(*found, strict=True)))


def _decode_all(path: str) -> int:
    frames = 0
    with av.open(path, metadata_errors="ignore", container_options=CONTAINER_OPTIONS) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        try:
            for _ in container.decode(stream):
                frames += 1
        except av.FFmpegError:  # damaged behind the clips that are measured
            pass
    return frames


def _frames_to_decode(clip: Clip) -> int:
    """Count frames from each key frame that is needed to the last wanted frame before the next one."""
    keys = np.asarray(clip.file.keys)
    groups = np.maximum(np.searchsorted(keys, clip.indices, side="right") - 1, 0)
    frames = 0
    reached = -1
    for group in np.unique(groups):
        last = int(clip.indices[groups == group].max())
        # A group that decoding has run into from the one before is not begun anew.
        frames += last - max(int(keys[group]) - 1, reached)
        reached = last
    return frames
