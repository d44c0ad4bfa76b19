"""Teachers of other grids: frames and features are resampled as stated, in space and in time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.models import build_teacher
from mvd_ds.models.resampling import read_slots, resample_frames, resize_grid, slot_weights

CPU = torch.device("cpu")


def test_frames_are_repeated_left_out_or_mixed() -> None:
    clip = torch.arange(4.0).view(1, 1, 4, 1, 1)
    assert resample_frames(clip, 8, "nearest").flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert resample_frames(clip, 2, "nearest").flatten().tolist() == [1, 3]
    assert resample_frames(clip, 2, "linear").flatten().tolist() == [0.5, 2.5]
    assert resample_frames(clip, 4, "linear") is clip


def test_slots_of_a_clip_of_the_same_length_are_resized_as_a_grid_is() -> None:
    """64 frames in the time of 16, tubelets of 2: 32 slots are read at the middles of 8."""
    tokens = torch.randn(2, 32 * 6, 5)
    weights = slot_weights(32, 2, 8, 2, 16 / 64, CPU)
    torch.testing.assert_close(read_slots(tokens, weights), resize_grid(tokens, (32, 2, 3), (8, 2, 3)))


def test_slots_of_a_longer_clip_are_read_where_the_student_looks() -> None:
    """Slots that give their own time, of a clip that lasts three times as long, give the student's times."""
    slots, step = 8, 1.5  # 16 frames, each 1.5 of the student's apart
    times = (torch.arange(slots) - 3.5) * 2 * step
    found = read_slots(times.view(1, slots, 1), slot_weights(slots, 2, 4, 2, step, CPU)).flatten()
    torch.testing.assert_close(found, (torch.arange(4) - 1.5) * 2)


def other_grid(**more: Any) -> dict[str, Any]:
    return {"video": {"input_frames": 8, "input_px": 48, "resize": "bilinear", **more}}


@torch.no_grad()
@pytest.mark.parametrize("how", ["nearest", "linear"])
def test_a_teacher_of_more_frames_sees_frames_made_of_the_students(recipe: Any, how: str) -> None:
    chosen = recipe(teachers=other_grid(time=how))
    teacher = build_teacher("video", chosen.teachers["video"], chosen)
    assert teacher.grid == (4, 6, 6) and chosen.teacher_grid(chosen.teachers["video"]) == (4, 6, 6)
    clip = torch.randn(2, 3, 4, 48, 48)
    own = teacher.network.read(resample_frames(clip, 8, how)).tokens[1]
    torch.testing.assert_close(teacher(clip), resize_grid(own, (4, 6, 6), (2, 4, 4)))


@torch.no_grad()
def test_a_teacher_with_a_clip_of_its_own_that_lasts_longer(recipe: Any) -> None:
    chosen = recipe(teachers=other_grid(time="own_clip", input_stride=8), data={"clip": {"stride_frames": 4}})
    view = chosen.view_of(chosen.teachers["video"])
    assert view == (48, 8, 2.0) and view in chosen.clip_views
    teacher = build_teacher("video", chosen.teachers["video"], chosen)
    clip = torch.randn(2, 3, 8, 48, 48)
    own = teacher.network.read(clip).tokens[1]
    expected = resize_grid(read_slots(own, slot_weights(4, 2, 2, 2, 2.0, CPU)), (2, 6, 6), (2, 4, 4))
    torch.testing.assert_close(teacher(clip), expected)
    torch.testing.assert_close(teacher(clip, torch.tensor([[3, 7], [0, 31]]))[1, 1], expected[1, 31])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time": None}, "input_frames 8 differs from the student's 4; choose time: own_clip"),
        ({"time": "linear", "input_stride": 2}, "input_stride needs time: own_clip"),
        ({"time": "nearest", "input_frames": None}, "its clip is the student's; state input_frames, or remove it"),
        ({"time": "own_clip", "input_stride": 1}, "its clip lasts 0.50 of the student's: raise input_frames or input_stride"),
        ({"time": "own_clip", "resize": None}, "its grid (4, 6, 6) differs from the student's (2, 4, 4)"),
        ({"time": "own_clip", "input_frames": 9}, "9 frames is not divisible by tubelet_frames 2"),
    ],
)
def test_what_is_not_stated_is_asked_for_in_one_line(recipe: Any, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(teachers=other_grid(**change), data={"clip": {"stride_frames": 4}})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_an_image_teacher_has_no_time_of_its_own(recipe: Any) -> None:
    with pytest.raises(ConfigError, match="sees one frame of each of the student's tubelets: remove input_frames, time"):
        recipe(teachers={"image": {"input_frames": 8, "time": "linear"}})


def test_what_is_resampled_is_said_at_start(recipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    chosen = recipe(teachers=other_grid(time="own_clip", input_stride=8), data={"clip": {"stride_frames": 4}})
    with caplog.at_level("INFO"):
        build_teacher("video", chosen.teachers["video"], chosen)
    assert "teachers.video: sees 8 frames of its own from the moment of the student's 4, 2 of their time apart" in caplog.text
    assert "(4, 6, 6) are resized to the student's (2, 4, 4), linear in time, bilinear in space" in caplog.text
