"""What one clip costs, stage by stage and reader by reader, and what it would cost at the least."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
import torch

from mvd_ds.config import ClipSettings, ConfigError
from mvd_ds.data.decode import open_video
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.transforms import CROPS, cut
from mvd_ds.data.video import DecodeError


class Stages(NamedTuple):
    """CPU milliseconds for one clip, over all threads of the process."""

    open: float
    decode: float
    crop: float

    @property
    def total(self) -> float:
        """All three."""
        return sum(self)


class File(NamedTuple):
    """A video as its packets tell it."""

    path: str
    frames: int
    keys: list[int]
    """Key frames, in order of presentation."""
    bytes: int
    fps: float = 0.0


class Clip(NamedTuple):
    """What is read of a file."""

    file: File
    indices: np.ndarray


def look_at(path: str) -> File:
    """Length and key frames of ``path``.

    Raises:
        av.FFmpegError: if it cannot be read.
    """
    with av.open(path, metadata_errors="ignore") as container:
        packets = [p for p in container.demux(video=0) if p.size and p.pts is not None and not p.is_discard]
        packets.sort(key=lambda packet: packet.pts)
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        fps = float(container.streams.video[0].average_rate or 0)
        return File(path, len(packets), keys, container.size, fps)


def draw_clips(files: Sequence[File], clip: ClipSettings, count: int) -> list[Clip]:
    """``count`` clips from the files in turn, at the places where training would begin them."""
    clips = []
    for number in range(count):
        file = files[number % len(files)]
        generator = keyed_generator(0, "bench", number)
        clips.append(Clip(file, frame_indices(file.frames, clip, generator, file.fps)))
    return clips


def measure_stages(clips: Sequence[Clip], settings: ClipSettings, reader: str) -> Stages | str:
    """Mean over the clips; or why ``reader`` cannot read one of them."""
    spent = np.zeros(3)
    out = torch.empty((3, settings.frames, settings.size_px, settings.size_px), dtype=torch.uint8)
    for number, clip in enumerate(clips):
        times = [time.process_time()]
        try:
            video = open_video(clip.file.path, reader)
            times.append(time.process_time())
            frames = video.get(clip.indices)
            video.close()
        except (DecodeError, ConfigError) as error:
            return f"{clip.file.path}: {error}"
        times.append(time.process_time())
        generator = keyed_generator(0, "crop", number)
        box = CROPS[settings.crop](frames.shape[1], frames.shape[2], settings.size_px, generator)
        out.copy_(cut(frames, box, settings.size_px, interpolation=settings.interpolation))
        times.append(time.process_time())
        spent += np.diff(times)
    return Stages(*(1000 * spent / len(clips)).tolist())


def measure_bound(clips: Sequence[Clip]) -> dict[str, float]:
    """The least that decoding must cost: frames from a key frame on, each at the cost of plain sequential decoding.

    Returns:
        Milliseconds a frame by PyAV, one thread, without conversion; frames a clip; their product.
    """
    files = {clip.file.path: clip.file for clip in clips}
    began = time.process_time()
    decoded = sum(_decode_all(path) for path in files)
    frame_ms = 1000 * (time.process_time() - began) / decoded
    frames = statistics.fmean(_frames_to_decode(clip) for clip in clips)
    return {"frame_ms": frame_ms, "frames": frames, "clip_ms": frame_ms * frames}


def median_of(rounds: int, measures: dict[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Every measure ``rounds`` times, taking turns, so that whatever else the machine does falls on all of them."""
    found: dict[str, list[Any]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def median_stages(found: Sequence[Stages | str]) -> Stages | str:
    """Stage by stage; or the first reason."""
    for stages in found:
        if isinstance(stages, str):
            return stages
    return Stages(*(statistics.median(column) for column in zip(*found, strict=True)))


def _decode_all(path: str) -> int:
    with av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        return sum(1 for _ in container.decode(stream))


def _frames_to_decode(clip: Clip) -> int:
    """From each key frame that is needed to the last wanted frame before the next one."""
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
