"""Drawn views of training clips for heads on frozen features: another start, crop and mirror image for each, by keyed numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ClipSettings
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.readers.video import Video
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.transforms import cut, draw_box


class Drawing(NamedTuple):
    """The way views are drawn."""

    clip: ClipSettings
    """Frames, stride, sampling and size; ``crop`` random_resized with its ``crop_area``, and the probability of ``flip``."""
    segments: int
    """Clips along the video."""
    seed: int
    """``run.seed``."""


def drawn_view(video: Video, key: tuple[int, int], drawing: Drawing) -> Tensor:
    """Return one drawn view, uint8 (segments, C, T, H, W), a function of the key and the seed alone.

    Dense and window sampling draw the start of every clip inside its own equal part of the video, uniform sampling the frame of
    every part of it; every clip has a crop and a flip of its own. Source: V-JEPA 2's training views of its attentive probe.
    Differs: neither its colours (RandAugment) nor its erasing.

    Args:
        video: an opened video.
        key: number of the video in its manifest, and of the view.
        drawing: how views are drawn.

    Raises:
        DecodeError: if a frame cannot be decoded.
    """
    clip, generator = drawing.clip, keyed_generator(drawing.seed, "probe view", *key)
    length, parts = len(video), 1 if drawing.clip.sampling == "uniform" else drawing.segments
    starts = []
    for segment in range(drawing.segments):
        part = segment % parts
        first, end = length * part // parts, max(length * (part + 1) // parts, length * part // parts + 1)
        starts.append(np.minimum(first + frame_indices(end - first, clip, generator, video.fps), length - 1))
    needed, places = np.unique(np.stack(starts), return_inverse=True)
    frames = video.get(needed)  # at once, so that whoever fetches the video knows all that is needed
    shown = []
    for chosen in places.reshape(drawing.segments, -1):
        box = draw_box(frames.shape[1], frames.shape[2], clip, generator)
        flip = bool(generator.random() < clip.flip)
        shown.append(cut(frames[chosen], box, clip.size_px, flip, clip.interpolation, clip.antialias))
    return torch.stack(shown)
