"""The *how* of the sample set: where a moving object is, and how large, in every frame.

A pose is (distance from the middle, direction seen from the middle, side). Each of the three is uniformly distributed in
every frame of every clip, whatever its motion: a motion moves one of them, and moves it so that its distribution stays
uniform at every time; the other two stand still where they were drawn. One frame therefore says nothing about the motion.
The last pose equals the first, so the two together say nothing either. Only time does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

HOW = (
    "orbit clockwise",
    "orbit counterclockwise",
    "grow fast, shrink slowly",
    "grow slowly, shrink fast",
    "out fast, back slowly",
    "out slowly, back fast",
    "shake, then rest",
    "rest, then shake",
)
"""Motions 2 i and 2 i + 1 are each other's time reversals."""

DISTANCE = (0.07, 0.23)
"""Nearest and farthest distance of the object's middle from the frame's, in shares of the frame's side."""
SIDE = (0.45, 0.65)
"""Smallest and largest side of the object, in shares of the frame's side."""
FAST = (0.15, 0.25)
"""Share of the clip that the fast half of a sawtooth takes."""
SHAKING = (0.4, 0.6)
"""Share of the clip that is shaken."""
SHAKE_HALF_WAVES = (3, 4)
"""Swings to one side while shaken."""
SHAKE_REACH = 0.09
"""Length of a swing, in shares of the frame's side."""


class Poses(NamedTuple):
    """The object's places in T frames, in shares of the frame's side; y points down."""

    x: np.ndarray
    """float64 (T,), of the object's middle."""
    y: np.ndarray
    """float64 (T,), of the object's middle."""
    side: np.ndarray
    """float64 (T,), length of the object's side."""


def draw_poses(how: int, frames: int, rng: np.random.Generator) -> Poses:
    """Draw a random path of motion ``how`` (index into ``HOW``) through ``frames`` poses.

    Sawtooths start at a random point of their period, because a fixed one would show in the middle frame; a clip is one
    period, so it ends where it started. The swings of a shake start and end at a direction that is itself uniform, so what
    they add to it leaves it uniform.
    """
    clock = np.linspace(0.0, 1.0, frames)
    distance = np.full(frames, rng.uniform(*DISTANCE))
    direction = np.full(frames, rng.uniform(0, 2 * np.pi))
    side = np.full(frames, rng.uniform(*SIDE))
    match how // 2:
        case 0:
            direction += 2 * np.pi * clock
        case 1:
            side = _between(SIDE, _sawtooth(clock + rng.uniform(), rng.uniform(*FAST)))
        case 2:
            distance = _between(DISTANCE, _sawtooth(clock + rng.uniform(), rng.uniform(*FAST)))
        case 3:
            direction += _shake(clock, rng) * SHAKE_REACH / distance
    if how % 2:
        distance, direction, side = distance[::-1], direction[::-1], side[::-1]
    return Poses(0.5 + distance * np.cos(direction), 0.5 + distance * np.sin(direction), side)


def _between(limits: tuple[float, float], share: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * share


def _sawtooth(phase: np.ndarray, rise: float) -> np.ndarray:
    """Go from 0 to 1 in the share ``rise`` of a period, and back in the rest; at a uniform phase it is uniform."""
    phase = phase % 1.0
    return np.where(phase < rise, phase / rise, (1 - phase) / (1 - rise))


def _shake(clock: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Swing between -1 and 1 for the first part of the clip, then 0."""
    half_waves = rng.choice(SHAKE_HALF_WAVES) * rng.choice((-1, 1))
    end = rng.uniform(*SHAKING)
    return np.where(clock < end, np.sin(np.pi * half_waves * clock / end), 0.0)
