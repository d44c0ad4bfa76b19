"""What the pixels of the sample set give away: *what* in any frame, *how* in time only."""

from typing import NamedTuple

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mvd_ds.data.synthetic.rendering import draw_labels, draw_scene, read_glyphs

FRAMES, SIZE_PX, SEED = 16, 48, 3
TRAIN, HELD_OUT = 3200, 1600


class Clips(NamedTuple):
    small: np.ndarray
    """float32 (S, T, 144), grey means of 12 x 12 squares."""
    track: np.ndarray
    """float64 (S, T, 3), x, y and size of what is bright."""
    what: np.ndarray
    how: np.ndarray


def shrink(grey: np.ndarray) -> np.ndarray:
    return grey.reshape(FRAMES, 12, 4, 12, 4).mean((2, 4)).reshape(FRAMES, 144)


def track(grey: np.ndarray) -> np.ndarray:
    bright = np.maximum(grey - 160, 0)  # the background stays below
    total = bright.sum((1, 2))
    place = np.arange(SIZE_PX) - SIZE_PX / 2 + 0.5
    x, y = bright.sum(1) @ place / total, bright.sum(2) @ place / total
    spread = bright.sum(1) @ place**2 / total - x**2 + bright.sum(2) @ place**2 / total - y**2
    return np.stack([x, y, np.sqrt(spread)], 1)


def draw(split: str, count: int) -> Clips:
    glyphs = read_glyphs(SEED)[split]
    labels = np.array([draw_labels(SEED, split, index) for index in range(count)])
    small, tracks = [], []
    for index in range(count):
        clip = draw_scene(glyphs, SEED, split, index, SIZE_PX, FRAMES).pixels
        grey = clip @ np.full(3, 1 / 3, np.float32)
        small.append(shrink(grey))
        tracks.append(track(grey))
    return Clips(np.stack(small), np.stack(tracks), labels[:, 0], labels[:, 1])


@pytest.fixture(scope="module")
def clips() -> tuple[Clips, Clips]:
    return draw("train", TRAIN), draw("val", HELD_OUT)


CLASSIFIERS = {
    "linear": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-2, max_iter=100)),
    "neighbours": lambda: KNeighborsClassifier(15),
    "forest": lambda: RandomForestClassifier(40, min_samples_leaf=3, max_samples=0.5, random_state=0),
}


def accuracy(kind: str, train: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray) -> float:
    model = CLASSIFIERS[kind]().fit(train.reshape(len(train), -1), labels)
    return float((model.predict(held_out.reshape(len(held_out), -1)) == held_out_labels).mean())


@pytest.mark.parametrize("frames", [(0,), (4,), (7,), (11,), (15,), (0, 15)], ids=str)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_single_frames_and_both_ends_leave_how_at_chance(clips: tuple[Clips, Clips], kind: str, frames: tuple[int, ...]) -> None:
    train, held_out = clips
    found = accuracy(kind, train.small[:, frames], train.how, held_out.small[:, frames], held_out.how)
    assert found == pytest.approx(1 / 8, abs=0.03)


@pytest.mark.parametrize("kind", ["neighbours", "forest"])
def test_the_same_classifiers_read_what_from_one_frame(clips: tuple[Clips, Clips], kind: str) -> None:
    train, held_out = clips
    assert accuracy(kind, train.small[:, 7], train.what, held_out.small[:, 7], held_out.what) > 0.4


def motion(tracks: np.ndarray) -> np.ndarray:
    """Float (S, 7): who moves, how much, and whether quickly one way and slowly the other."""
    x, y, size = tracks.transpose(2, 0, 1)
    distance = np.hypot(x, y)
    leaving, growth = np.diff(distance), np.diff(size)
    turn = np.diff(np.unwrap(np.arctan2(y, x)))
    half = turn.shape[1] // 2
    energy = np.diff(x) ** 2 + np.diff(y) ** 2
    return np.stack(
        [
            turn.sum(1),
            np.cbrt((leaving**3).sum(1)),
            np.cbrt((growth**3).sum(1)),
            size.std(1),
            distance.std(1),
            energy.sum(1),
            energy[:, :half].sum(1) - energy[:, -half:].sum(1),
        ],
        1,
    )


def test_positions_over_time_tell_how_and_a_reversed_clip_shows_the_partner(clips: tuple[Clips, Clips]) -> None:
    train, held_out = clips
    forest = RandomForestClassifier(50, min_samples_leaf=3, random_state=0).fit(motion(train.track), train.how)
    assert (forest.predict(motion(held_out.track)) == held_out.how).mean() > 0.95
    assert (forest.predict(motion(held_out.track[:, ::-1])) == (held_out.how ^ 1)).mean() > 0.95


def test_labels_are_balanced_and_independent() -> None:
    for split in ("train", "val"):
        pairs = np.array([draw_labels(5, split, index) for index in range(800)])
        counts = np.zeros((10, 8), int)
        np.add.at(counts, tuple(pairs.T), 1)
        assert (counts == 10).all()
        assert not (pairs[:80] == pairs[80:160]).all()


def test_no_source_image_is_in_both_halves() -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    known = {np.minimum(image.astype(np.float32) / 12, 1).tobytes() for image in source.images}
    train, val = read_glyphs(2)["train"], read_glyphs(2)["val"]
    in_train, in_val = ({image.tobytes() for image in half.images} for half in (train, val))
    assert not in_train & in_val
    assert in_train | in_val == known
    assert len(train.images) + len(val.images) == len(source.images)
    assert set(train.digits) == set(val.digits) == set(range(10))
    assert (read_glyphs(2)["val"].digits == val.digits).all()
    assert len({image.tobytes() for image in read_glyphs(3)["val"].images} & in_val) < len(in_val) / 2


def test_a_clip_depends_on_its_key_alone() -> None:
    glyphs = read_glyphs(4)["train"]
    clip = draw_scene(glyphs, 4, "train", 9, 32, 8).pixels
    assert clip.shape == (8, 32, 32, 3) and clip.dtype == np.uint8
    draw_scene(glyphs, 4, "train", 10, 32, 8)
    np.testing.assert_array_equal(clip, draw_scene(glyphs, 4, "train", 9, 32, 8).pixels)
    for seed, split, index in ((5, "train", 9), (4, "val", 9), (4, "train", 10)):
        assert not np.array_equal(clip, draw_scene(glyphs, seed, split, index, 32, 8).pixels)
