"""Poses: every frame of every motion has the same distribution, and only time tells the motions apart."""

import numpy as np
import pytest
from scipy.stats import kstest

from mvd_ds.data.synthetic.motion import DISTANCE, HOW, SIDE, Poses, draw_poses

MOTIONS = range(len(HOW))


def path(how: int, seed: int, frames: int = 16) -> Poses:
    return draw_poses(how, frames, np.random.default_rng(seed))


def polar(poses: Poses) -> tuple[np.ndarray, np.ndarray]:
    """Distance and direction (radians, unwrapped) of each pose, seen from the middle of the frame."""
    x, y = poses.x - 0.5, poses.y - 0.5
    return np.hypot(x, y), np.unwrap(np.arctan2(y, x))


@pytest.mark.parametrize("how", MOTIONS)
@pytest.mark.parametrize("frames", [8, 16, 33])
def test_a_motion_ends_in_the_pose_in_which_it_began(how: int, frames: int) -> None:
    for seed in range(50):
        for values in path(how, seed, frames):
            assert values.shape == (frames,)
            assert values[0] == pytest.approx(values[-1], abs=1e-12)


@pytest.mark.parametrize("how", MOTIONS[::2])
def test_the_other_motion_of_a_pair_is_the_same_one_backwards(how: int) -> None:
    for seed in range(50):
        for forward, backward in zip(path(how, seed), path(how + 1, seed), strict=True):
            np.testing.assert_array_equal(forward, backward[::-1])
    assert not np.allclose(path(how, 0), path(how + 1, 0))


@pytest.mark.parametrize("how", MOTIONS)
def test_every_frame_of_every_motion_is_uniformly_distributed(how: int) -> None:
    drawn = [path(how, 1000 * how + seed) for seed in range(1500)]
    for time in (0, 3, 7, 8, 12, 15):
        distance, direction = np.array([[values[time] for values in polar(poses)] for poses in drawn]).T
        side = np.array([poses.side[time] for poses in drawn])
        unit = {
            "distance": (distance - DISTANCE[0]) / (DISTANCE[1] - DISTANCE[0]),
            "direction": direction / (2 * np.pi) % 1,
            "side": (side - SIDE[0]) / (SIDE[1] - SIDE[0]),
        }
        for name, values in unit.items():
            assert kstest(values, "uniform").pvalue > 1e-4, (name, time)
        assert np.abs(np.corrcoef([unit["distance"], unit["side"], np.cos(direction)]) - np.eye(3)).max() < 0.1


def test_each_motion_moves_one_thing_by_several_pixels() -> None:
    size_px = 48
    for how in MOTIONS:
        for seed in range(50):
            poses = path(how, seed)
            distance, direction = polar(poses)
            moved = {
                "direction": np.ptp(direction * distance.mean()) * size_px,
                "side": np.ptp(poses.side) * size_px,
                "distance": np.ptp(distance) * size_px,
            }
            mover = ("direction", "side", "distance", "direction")[how // 2]
            assert moved.pop(mover) > 4
            assert max(moved.values()) < 1e-9


def test_time_tells_the_motions_apart() -> None:
    for seed in range(50):
        turn = [np.diff(polar(path(how, seed))[1]) for how in MOTIONS]
        assert (turn[0] > 0).all() and (turn[1] < 0).all()  # y points down: growing angles are clockwise
        growth, leaving = np.diff(path(2, seed).side), np.diff(polar(path(4, seed))[0])
        for steps in (growth, leaving):
            assert (steps > 0).sum() < (steps < 0).sum() and steps.max() > 2 * -np.median(steps[steps < 0])
        assert np.abs(turn[6][:7]).max() > 0 and not turn[6][9:].any()
        assert np.abs(turn[7][-7:]).max() > 0 and not turn[7][:6].any()
