"""One clip of the sample set: a digit that moves over a smooth drifting background."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.synthetic.motion import HOW, Poses, draw_poses

WHAT = tuple("0123456789")
WAVES = 3
"""Number of waves in the background."""
NOISE = 0.008
"""Amplitude of the uniform noise, as a share of the range from black to white."""


class Glyphs(NamedTuple):
    """The handwritten digits of one half of the set."""

    images: np.ndarray
    """float32 (n, 8, 8), opacity from 0 to 1."""
    digits: np.ndarray
    """int64 (n,), the digit that each shows."""


def read_glyphs(seed: int) -> dict[str, Glyphs]:
    """Return the digits of scikit-learn: four in five source images for ``train``, the others for ``val``; no image in both."""
    from sklearn.datasets import load_digits  # 1 s to import, and only needed here

    source = load_digits()
    images = np.minimum(source.images.astype(np.float32) / 12, 1)  # strokes of 16 grey levels, their core opaque
    order = keyed_generator(seed, "glyphs").permutation(len(images))
    cut = len(images) // 5
    return {name: Glyphs(images[part], source.target[part]) for name, part in (("train", order[cut:]), ("val", order[:cut]))}


def draw_labels(seed: int, split: str, index: int) -> tuple[int, int]:
    """Return (what, how) of clip ``index``: every 80 clips hold every pair once, in an order of their own."""
    pairs = len(WHAT) * len(HOW)
    order = keyed_generator(seed, f"labels {split}", index // pairs).permutation(pairs)
    what, how = divmod(int(order[index % pairs]), len(HOW))
    return what, how


class DigitClip(NamedTuple):
    """A clip, and where its digit is."""

    pixels: np.ndarray
    """uint8 (T, H, W, 3)."""
    position: np.ndarray
    """float32 (T, 2), x and y of the digit's middle in shares of the frame's side; y points down."""
    mask: np.ndarray
    """bool (T, H, W), True where the digit covers more than half of a pixel."""


def draw_scene(glyphs: Glyphs, seed: int, split: str, index: int, size_px: int, frames: int) -> DigitClip:
    """Draw clip ``index`` of ``split``, and where its digit is.

    Everything but the path is the same in distribution when time runs backwards (the background drifts in a random
    direction, the noise has no memory), so a reversed clip is a clip of the reversed motion.
    """
    what, how = draw_labels(seed, split, index)
    rng = keyed_generator(seed, f"clip {split}", index)
    glyph = glyphs.images[rng.choice(np.flatnonzero(glyphs.digits == what))]
    poses = draw_poses(how, frames, rng)
    picture = _background(size_px, frames, rng)
    # In place: at this size new arrays cost more than the arithmetic.
    change = rng.uniform(0.75, 0.95, (3, 1, 1)).astype(np.float32) - picture
    opacity = _opacity(glyph, poses, size_px)
    change *= opacity[:, None]
    picture += change
    noise = rng.random((frames, 1, size_px, size_px), dtype=np.float32)
    noise -= 0.5
    noise *= 2 * NOISE
    picture += noise
    picture *= 255
    picture += 0.5
    position = np.stack((poses.x, poses.y), axis=1).astype(np.float32)
    return DigitClip(_interleave(picture.clip(0, 255, out=picture)), position, opacity > 0.5)


def _interleave(picture: np.ndarray) -> np.ndarray:
    """Return float (T, 3, H, W) as uint8 (T, H, W, 3)."""
    frames, colours, height, width = picture.shape
    pixels = np.empty((frames, height, width, colours), np.uint8)
    for colour in range(colours):  # five times faster than a transposed copy
        pixels[..., colour] = picture[:, colour]
    return pixels


def _opacity(glyph: np.ndarray, poses: Poses, size_px: int) -> np.ndarray:
    """Return the opacity of ``glyph`` (8, 8) at its poses, float32 (T, H, W), by linear interpolation along y, then x."""
    columns = _taps(poses.x, poses.side, len(glyph), size_px)
    rows = _taps(poses.y, poses.side, len(glyph), size_px)
    return rows @ glyph @ columns.transpose(0, 2, 1)


def _taps(middle: np.ndarray, side: np.ndarray, cells: int, size_px: int) -> np.ndarray:
    """Return float32 (T, size, cells): the weight of each cell of the glyph in each pixel of the frame."""
    pixel = (np.arange(size_px) + 0.5) / size_px
    cell = (pixel - middle[:, None]) / side[:, None] * cells + (cells - 1) / 2
    return np.maximum(1 - np.abs(cell[..., None] - np.arange(cells)), 0).astype(np.float32)


def _background(size_px: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draw float32 (T, 3, H, W): a few long coloured waves that drift together, at one speed in one random direction."""
    per_frame = rng.uniform(-1.2, 1.2, (2, WAVES))  # waves across the frame, along y and x
    heading = rng.uniform(0, 2 * np.pi)
    drift = rng.uniform(0.1, 0.4) * np.array([np.sin(heading), np.cos(heading)]) @ per_frame
    pixel = (np.arange(size_px) + 0.5) / size_px
    clock = np.linspace(0.0, 1.0, frames)
    along_y = 2 * np.pi * pixel[:, None] * per_frame[0]
    along_x = 2 * np.pi * (rng.uniform(0, 1, WAVES) - clock[:, None, None] * drift + pixel[:, None] * per_frame[1])
    # sin(a + b) = sin a cos b + cos a sin b, and a constant wave for the mean: one small matrix product per frame instead of
    # a sine per pixel.
    rows = np.concatenate([np.sin(along_y), np.cos(along_y), np.ones((size_px, 1))], 1)
    columns = np.concatenate([np.cos(along_x), np.sin(along_x), np.ones((frames, size_px, 1))], 2)
    colours = rng.uniform(-0.07, 0.07, (3, WAVES))
    weights = np.concatenate([colours, colours, rng.uniform(0.25, 0.4, (3, 1))], 1)
    coloured = (weights[:, None] * rows).reshape(3 * size_px, -1)
    waves = coloured.astype(np.float32) @ columns.transpose(0, 2, 1).astype(np.float32)
    return waves.reshape(frames, 3, size_px, size_px)
