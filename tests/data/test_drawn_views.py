"""Drawn views of a probe's training clips: functions of seed, video and view, from their own part of the video."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvd_ds.config import ClipSettings, ConfigError, load_recipe
from mvd_ds.data.drawn_views import Drawing, drawn_view
from mvd_ds.data.readers.video import Video

CLIP = ClipSettings(frames=4, stride_frames=2, size_px=8, crop="random_resized", crop_area=(0.3, 1.0), flip=0.5)


class Numbered(Video):
    """A video whose frames hold their own numbers."""

    reader = "numbered"
    fps = 30.0

    def __len__(self) -> int:
        return 60

    def get(self, indices: np.ndarray) -> np.ndarray:
        across = np.arange(24, dtype=np.uint8)[None, None, :, None]
        return np.broadcast_to(indices.astype(np.uint8)[:, None, None, None] * 4 + across // 12, (len(indices), 16, 24, 3)).copy()

    def close(self) -> None:
        return


def test_a_view_is_a_function_of_its_key() -> None:
    drawing = Drawing(CLIP, 2, 0)
    first = drawn_view(Numbered(), (3, 1), drawing)
    assert first.shape == (2, 3, 4, 8, 8) and first.dtype == torch.uint8
    assert torch.equal(first, drawn_view(Numbered(), (3, 1), drawing))
    others = [((3, 2), drawing), ((4, 1), drawing), ((3, 1), drawing._replace(seed=1))]
    assert not any(torch.equal(first, drawn_view(Numbered(), *other)) for other in others)


def test_every_segment_starts_anywhere_in_its_own_part() -> None:
    starts = np.array([drawn_view(Numbered(), (0, view), Drawing(CLIP, 2, 0))[:, 0, 0, 0, 0].numpy() // 4 for view in range(80)])
    assert starts[:, 0].min() == 0 and starts[:, 0].max() == 23  # of frames 0 to 29, six more are behind it
    assert starts[:, 1].min() == 30 and starts[:, 1].max() == 53


def test_uniform_sampling_draws_over_the_whole_video() -> None:
    drawing = Drawing(CLIP.model_copy(update={"sampling": "uniform"}), 2, 0)
    views = [drawn_view(Numbered(), (0, view), drawing) for view in range(20)]
    frames = torch.stack(views)[:, :, 0, :, 0, 0] // 4
    edges = torch.tensor([0, 15, 30, 45])
    assert bool(((frames >= edges) & (frames < edges + 15)).all())


def test_heads_that_are_not_trained_have_no_drawn_views() -> None:
    with pytest.raises(ConfigError, match="drawn is for trained heads"):
        load_recipe("quickstart_probe", ["drawn={count: 2}", "heads=[linear]"], "probe")
