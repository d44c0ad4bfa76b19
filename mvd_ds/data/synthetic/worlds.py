"""The worlds that ``synthesize`` draws, each with two independent labels: *what* is seen, and *how* it moves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.synthetic.doom import KINDS, Studio
from mvd_ds.data.synthetic.rendering import WHAT, draw_labels, draw_scene, read_glyphs


class Clip(NamedTuple):
    """A clip as a world draws it."""

    pixels: np.ndarray
    """uint8 (T, H, W, 3)."""
    arrays: dict[str, np.ndarray]
    """Targets of dense probes by name, an entry for each frame."""


Draw = Callable[[str, int], Clip]
"""(split, index) -> the clip; the same in every process."""


class World(NamedTuple):
    """A row of ``WORLDS``."""

    what: tuple[str, ...]
    """Names of the classes of *what*; those of *how* are ``motion.HOW``."""
    has_captions: bool
    """True if ``phrasing`` has words for it."""
    open: Callable[[int, int, int], Draw]
    """(seed, side in px, frames) -> the function that draws its clips in this process."""
    key_frames: int
    """Frames from one that is coded by itself to the next. A frame that is coded by those before it is cleaner after a rest than
    after a motion: with 16, the first and last frames of rooms told motions apart (.165, chance .125)."""


def _digits(seed: int, size_px: int, frames: int) -> Draw:
    glyphs = read_glyphs(seed)

    def draw(split: str, index: int) -> Clip:
        clip = draw_scene(glyphs[split], seed, split, index, size_px, frames)
        return Clip(clip.pixels, {"position": clip.position, "mask": clip.mask})

    return draw


def _doom(seed: int, size_px: int, frames: int) -> Draw:
    studio = Studio(size_px)

    def draw(split: str, index: int) -> Clip:
        what, how = draw_labels(seed, split, index)
        film = studio.film(what, how, split, frames, keyed_generator(seed, f"doom {split}", index))
        # Floats are regressed by dense read-outs, truth values are classes; 0 to 255 are exact in float16.
        return Clip(film.pixels, {"depth": film.depth.astype(np.float16), "mask": film.mask})

    return draw


WORLDS: dict[str, World] = {"digits": World(WHAT, True, _digits, 16), "doom": World(tuple(KINDS), False, _doom, 1)}
"""Worlds by the value of ``synthesize --world``: handwritten digits over waves; things in the rooms of a game."""


@functools.cache
def open_world(name: str, seed: int, size_px: int, frames: int) -> Draw:
    """Return the function that draws the clips of a world, opened once in a process."""
    return WORLDS[name].open(seed, size_px, frames)
