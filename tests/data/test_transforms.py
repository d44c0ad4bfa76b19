"""Crop boxes against the published rule, pixels against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.transforms import CROPS, Box, center_box, cut, multiscale_box, random_resized_box
from video_files import picture


@pytest.mark.parametrize(("height", "width"), [(256, 340), (340, 256), (224, 224), (48, 48), (97, 31), (1, 7)])
@pytest.mark.parametrize("crop", CROPS)
def test_boxes_lie_inside_the_frame(crop: str, height: int, width: int) -> None:
    for number in range(100):
        box = CROPS[crop](height, width, 224, keyed_generator(0, "t", number))
        assert box.height >= 1 and box.width >= 1
        assert 0 <= box.top <= height - box.height
        assert 0 <= box.left <= width - box.width


def test_multiscale_draws_ten_pairs_of_sides_at_thirteen_positions() -> None:
    boxes = [multiscale_box(256, 340, 112, keyed_generator(0, "t", number)) for number in range(4000)]
    sides = [256, 224, 192, 168]
    allowed = {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1}
    assert {(box.height, box.width) for box in boxes} == allowed
    assert len(allowed) == 10
    whole = [box for box in boxes if (box.height, box.width) == (168, 168)]
    down, right = (256 - 168) // 4, (340 - 168) // 4
    corners = {(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)} | {(0, 2), (4, 2), (2, 0), (2, 4)} | {(1, 1), (1, 3), (3, 1), (3, 3)}
    assert {(box.top // down, box.left // right) for box in whole} == corners


def test_a_side_within_three_pixels_becomes_the_wanted_side() -> None:
    sides = {multiscale_box(258, 258, 224, keyed_generator(0, "t", number)).height for number in range(200)}
    assert sides == {258, 224, 193, 170}  # int(258 * 0.875) = 225


def test_random_resized_keeps_area_and_ratio() -> None:
    boxes = [random_resized_box(200, 300, 224, keyed_generator(0, "t", number)) for number in range(1000)]
    areas = np.array([box.height * box.width / 60000 for box in boxes])
    ratios = np.array([box.width / box.height for box in boxes])
    assert areas.min() > 0.19 and areas.max() <= 1.0 and areas.min() < 0.25 and areas.max() > 0.8
    assert ratios.min() > 0.74 and ratios.max() < 1.35
    assert random_resized_box(10, 1000, 224, keyed_generator(0, "t")) == Box(0, 493, 10, 13)


def test_center_is_the_middle_square() -> None:
    assert center_box(256, 340) == Box(0, 42, 256, 256)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(3, 9, 60, 70), 96),
        (Box(10, 20, 168, 192), 112),
        (Box(0, 0, 240, 320), 64),
        (Box(0, 50, 240, 240), 224),
        (Box(0, 0, 224, 168), 224),
    ],
)
def test_resizing_agrees_with_pillow(box: Box, size: int, interpolation: str) -> None:
    """Up, down and both at once: at most one grey level apart, a hundredth of one on average."""
    frames = np.stack([picture(number, 0, 340, 256) for number in range(3)])
    ours = cut(frames, box, size, interpolation=interpolation).numpy()
    assert ours.shape == (3, 3, size, size)
    assert ours.dtype == np.uint8
    area = (box.left, box.top, box.left + box.width, box.top + box.height)
    how = Image.Resampling[interpolation.upper()]
    pillow = [np.asarray(Image.fromarray(frame).crop(area).resize((size, size), how)) for frame in frames]
    difference = np.abs(ours.transpose(1, 2, 3, 0).astype(int) - np.stack(pillow))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_all_frames_of_a_clip_are_cut_alike(interpolation: str) -> None:
    frames = np.stack([picture(7, 0, 340, 256)] * 4)
    ours = cut(frames, Box(3, 9, 200, 230), 112, flip=True, interpolation=interpolation)
    assert all((ours[:, number] == ours[:, 0]).all() for number in range(4))


def test_a_crop_of_the_wanted_size_is_not_resampled() -> None:
    frames = np.stack([picture(number, 0, 64, 48) for number in range(2)])
    ours = cut(frames, Box(8, 10, 32, 32), 32)
    assert np.array_equal(ours.numpy(), frames[:, 8:40, 10:42].transpose(3, 0, 1, 2))
    assert ours.untyped_storage().data_ptr() == frames.ctypes.data, "a view: no copy before the batch"


def test_flip_mirrors_the_width() -> None:
    frames = np.stack([picture(number, 0, 64, 48) for number in range(2)])
    box = Box(2, 3, 40, 44)
    assert np.array_equal(cut(frames, box, 32, flip=True).numpy(), cut(frames, box, 32).numpy()[..., ::-1])
