"""Sample videos to measure on, like Kinetics in size, rate and structure: a camera moves over photographs."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from mvd_ds.files import write_text, written_aside

WIDTH, HEIGHT, FPS, SECONDS = 340, 256, 30, 10
NOISE = 6.0
"""Standard deviation of the camera's noise in grey levels; with it x264 makes 0.7 Mbit/s, as for real clips of this size."""
SCENE_SECONDS = 5


def write_videos(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write ``count`` videos of ten seconds, 340 x 256, 30 frames per second, H.264 with long groups of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number:03d}.mp4"
        if not path.exists():
            _encode(path, _scenes(np.random.default_rng([seed, number])))
        paths.append(path)
    write_text(folder / "list.txt", "".join(f"{path.name}\n" for path in paths))
    return paths


def _encode(path: Path, frames: Iterator[np.ndarray]) -> None:
    """Encode with the defaults of x264: key frames up to 250 frames apart."""
    with written_aside(path) as aside, av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "medium", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def _scenes(generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield frames uint8 (H, W, 3); every few seconds the camera takes another path, so that x264 sets some key frames itself."""
    photographs = [np.asarray(image) for image in load_sample_images().images]
    for number in range(SECONDS // SCENE_SECONDS):
        yield from _one_scene(photographs[number % len(photographs)], generator)


def _one_scene(photograph: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield frames of a camera that pans and zooms behind a second, smaller picture that moves."""
    image = Image.fromarray(photograph)
    frames = SCENE_SECONDS * FPS
    start, end = generator.uniform(0, 1, (2, 2))
    widths = generator.uniform(0.5, 0.85, 2) * image.width
    patch = image.resize((90, 70))
    patch_path = generator.uniform(0, 1, (2, 2)) * [WIDTH - 90, HEIGHT - 70]
    for step in np.linspace(0, 1, frames):
        width = widths[0] + step * (widths[1] - widths[0])
        height = width * HEIGHT / WIDTH
        left, top = (start + step * (end - start)) * [image.width - width, image.height - height]
        box = (left, top, left + width, top + height)
        picture = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=box)
        picture.paste(patch, tuple((patch_path[0] + step * (patch_path[1] - patch_path[0])).astype(int)))
        noise = generator.normal(0, NOISE, (HEIGHT, WIDTH, 1))
        yield (np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)
