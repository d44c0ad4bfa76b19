"""RandAugment: every operation against timm's of the same name, and the same one on every frame."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from mvd_ds.config import RandAugmentSettings
from mvd_ds.data.augmentation.rand_augment import NAMES, OPERATIONS, rand_augment
from mvd_ds.data.randomness import keyed_generator

#: Ours -> timm's "increasing" operation, in timm's order.
PEERS = dict(zip(NAMES, auto_augment._RAND_INCREASING_TRANSFORMS, strict=True))


def _picture(seed: int = 0) -> np.ndarray:
    """Smooth in places, noisy in others, with a dark and a bright half."""
    generator = np.random.default_rng(seed)
    slope = np.linspace(0, 255, 40)[None, :, None] * np.array([1.0, 0.6, 0.3])
    return (0.7 * slope + 0.3 * generator.integers(0, 256, (30, 40, 3))).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("magnitude", "sign"), [(0.0, 1.0), (3.3, -1.0), (7.0, 1.0), (9.9, -1.0)])
def test_an_operation_is_timms(name: str, magnitude: float, sign: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    hparams = {"interpolation": Image.Resampling.BICUBIC, "img_mean": (128, 128, 128)}
    peer = auto_augment.AugmentOp(PEERS[name], prob=1.0, magnitude=magnitude, hparams=hparams)
    image = Image.fromarray(_picture())
    ours = OPERATIONS[name](magnitude / 10, sign, image.size)(image)
    assert np.array_equal(np.asarray(ours), np.asarray(peer(image)))


def test_the_strongest_posterisation_is_black() -> None:
    image = Image.fromarray(_picture())
    assert not np.asarray(OPERATIONS["posterize"](1.0, 1.0, image.size)(image)).any()


def test_the_peers_are_what_their_names_say() -> None:
    for ours, theirs in PEERS.items():
        assert theirs.lower().startswith(ours.replace("_", "")), (ours, theirs)


def test_all_frames_of_a_clip_get_the_same_operations() -> None:
    frames = np.stack([_picture()] * 3 + [_picture(1)])
    changed = 0
    for number in range(40):
        shown = rand_augment(frames, RandAugmentSettings(), keyed_generator(0, "t", number))
        assert shown.shape == frames.shape and shown.dtype == np.uint8
        assert np.array_equal(shown[0], shown[1]) and np.array_equal(shown[0], shown[2])
        alone = rand_augment(frames[3:], RandAugmentSettings(), keyed_generator(0, "t", number))
        assert np.array_equal(alone[0], shown[3]), "what is done does not depend on the other frames"
        changed += not np.array_equal(shown, frames)
    # Of 4 operations with probability 1/2 none is applied to one clip in 16.
    assert 32 <= changed <= 40


def test_the_number_of_draws_does_not_depend_on_what_is_applied() -> None:
    for probability in (0.0, 0.5, 1.0):
        generator = keyed_generator(0, "t", 3)
        rand_augment(_picture()[None], RandAugmentSettings(probability=probability), generator)
        following = generator.random()
        assert following == pytest.approx(_following(), abs=0)


def _following() -> float:
    generator = keyed_generator(0, "t", 3)
    rand_augment(_picture()[None], RandAugmentSettings(probability=0.0), generator)
    return generator.random()


def test_strengths_are_normal_around_the_magnitude() -> None:
    """Seen through an operation whose effect tells its strength: a rotation that is recorded instead of done."""
    seen: list[float] = []
    original = dict(OPERATIONS)
    try:
        for name in NAMES:
            OPERATIONS[name] = lambda strength, sign, size: seen.append(sign * strength) or (lambda image: image)
        for number in range(400):
            rand_augment(_picture()[None], RandAugmentSettings(probability=1.0), keyed_generator(0, "t", number))
    finally:
        OPERATIONS.update(original)
    strengths, signs = np.abs(seen), np.sign(seen)
    assert len(seen) == 1600
    assert strengths.mean() == pytest.approx(0.7, abs=0.01) and strengths.std() == pytest.approx(0.05, abs=0.005)
    assert abs(signs.mean()) < 0.1
