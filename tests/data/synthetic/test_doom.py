"""Clips from the rooms of a game: the thing is where its pose says, whatever process films it, in maps of its split."""

import sys

import numpy as np
import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.synthetic.doom import KINDS, MAPS, Film, Studio
from mvd_ds.data.synthetic.motion import HOW, Poses, draw_poses

SIZE_PX, FRAMES = 60, 8
CASES = [(0, 0, "train"), (5, 2, "val"), (3, 7, "train")]


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(SIZE_PX)


@pytest.fixture(scope="module")
def films(studio: Studio) -> list[tuple[Film, Poses]]:
    """The clips of ``CASES`` and the poses that their keys draw."""
    found = []
    for what, how, split in CASES:
        film = studio.film(what, how, split, FRAMES, keyed_generator(1, "film", what))
        found.append((film, draw_poses(how, FRAMES, keyed_generator(1, "film", what))))
    return found


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_thing_is_where_its_pose_says(films: list[tuple[Film, Poses]], case: int) -> None:
    film, poses = films[case]
    assert film.pixels.shape == (FRAMES, SIZE_PX, SIZE_PX, 3) and film.pixels.dtype == np.uint8
    assert film.depth.shape == film.mask.shape == (FRAMES, SIZE_PX, SIZE_PX)
    for mask, x, y, side in zip(film.mask, *poses, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        top, bottom = (y - side / 2) * SIZE_PX, (y + side / 2) * SIZE_PX
        assert abs(rows[0] - max(top, 0)) <= 3 and abs(rows[-1] + 1 - min(bottom, SIZE_PX)) <= 3
        assert abs((columns[0] + columns[-1] + 1) / 2 - x * SIZE_PX) <= 4


def test_its_depth_follows_its_distance(films: list[tuple[Film, Poses]]) -> None:
    for film, poses in films:
        depths = [np.median(depth[mask]) for depth, mask in zip(film.depth, film.mask, strict=True)]
        assert film.pixels[film.mask].mean() > 20
        if np.ptp(poses.side) > 0.01:
            assert np.corrcoef(depths, 1 / poses.side)[0, 1] > 0.9
        else:
            assert np.ptp(depths) <= 1


def test_another_studio_films_the_same(films: list[tuple[Film, Poses]]) -> None:
    what, how, split = CASES[1]
    again = Studio(SIZE_PX).film(what, how, split, FRAMES, keyed_generator(1, "film", what))
    for name, value in films[1][0]._asdict().items():
        np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)


def test_no_map_is_in_both_splits() -> None:
    assert not set(MAPS["train"]) & set(MAPS["val"])
    assert len(KINDS) * len(HOW) == 80, "draw_labels holds every pair once in 80 clips"


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ConfigError, match=r"needs ViZDoom: pip install 'mvd_ds\[doom\]'"):
        Studio(48)


def test_pictures_larger_than_the_engine_draws_are_refused() -> None:
    with pytest.raises(ConfigError, match="size_px 500 is above 480"):
        Studio(500)
