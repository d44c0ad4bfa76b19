"""Real video files for the tests, written by PyAV."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from mvd_ds.config import TrainingRecipe


def picture(frame: int, seed: int, width: int, height: int) -> np.ndarray:
    """uint8 (H, W, 3): waves that move with ``frame``, and a little noise, so that every frame differs."""
    y, x = np.mgrid[:height, :width]
    waves = (
        80 * np.sin((x + 3 * frame + 11 * seed) / 7)[..., None] * np.array([1, 0.5, 0.2])
        + 40 * np.cos((y - 2 * frame) / 5)[..., None]
    )
    noise = np.random.default_rng([seed, frame]).normal(0, 3, (height, width, 3))
    return (127 + waves + noise).clip(0, 255).astype(np.uint8)


def write_video(
    path: Path,
    frames: int = 16,
    width: int = 128,
    height: int = 96,
    seed: int = 0,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    milliseconds: list[int] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Encode ``frames`` pictures; ``milliseconds`` are the time stamps of a video with a variable frame rate;
    ``container`` are options of the file format."""
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=30, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, seed, width, height), format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def write_trimmed(source: Path, path: Path, seconds: float) -> Path:
    """Copy ``source`` from ``seconds`` on without encoding: frames before that stay in the file, hidden by an edit list."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        offset = int(seconds / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
                new.mux(packet)
    return path


def write_turned(source: Path, path: Path) -> Path:
    """Copy an mp4 and say in its header that players turn it by a quarter."""
    data = bytearray(source.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def all_frames(path: Path) -> np.ndarray:
    """uint8 (T, H, W, 3): the whole video decoded from start to end."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def recipe(manifest: Path, **changes: Any) -> TrainingRecipe:
    """A small stage-one recipe on ``manifest``; ``changes`` are ``section__key=value``."""
    tree: dict[str, Any] = {
        "objective": "video_reconstruction",
        "model": {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_px": 8},
        "pixels": {},
        "schedule": {"epochs": 2},
        "batch": {"micro": 8, "global": 8},
        "masking": {"ratio": 0.75, "masks_per_clip": 2},
        "data": {
            "manifest": str(manifest),
            "workers": 0,
            "clip": {"frames": 4, "stride_frames": 2, "size_px": 32, "flip": 0.5},
        },
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return TrainingRecipe.model_validate(tree)
