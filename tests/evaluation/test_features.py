"""One pass over the videos gives every network its features, in order."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mvd_ds.evaluation.features import FRAMES, Extractor, extract_features, pixel_features

CLIPS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 16, 24, 24), dtype=np.uint8))
LABELS = torch.arange(14).reshape(7, 2)
OK = torch.tensor([True, True, False, True, True, True, True])


def batches(size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for first in range(0, 7, size):
        part = slice(first, first + size)
        yield CLIPS[part], LABELS[part], OK[part]


def time_profile(clip: Tensor) -> Tensor:
    return clip.double().mean((1, 3, 4))


def test_features_labels_and_faults_stand_in_the_order_of_the_videos() -> None:
    seen: list[int] = []
    found = extract_features(
        {"profile": Extractor(time_profile), "pixels": Extractor(pixel_features)}, batches(3), on_progress=seen.append
    )
    assert list(found.features) == ["profile", "pixels"]
    assert {values.dtype for values in found.features.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found.features["profile"], time_profile(CLIPS).numpy(), rtol=1e-5)
    np.testing.assert_array_equal(found.labels, LABELS.numpy())
    np.testing.assert_array_equal(found.ok, OK.numpy())
    assert seen == [3, 6, 7]


def test_networks_are_run_without_gradients() -> None:
    weight, seen = torch.ones(16, requires_grad=True), []

    def network(clip: Tensor) -> Tensor:
        seen.append(time_profile(clip).float() * weight)
        return seen[-1]

    extract_features({"a": Extractor(network)}, batches(7))
    assert seen and not any(features.requires_grad for features in seen)


def test_the_first_frame_is_all_that_is_shown() -> None:
    shown = FRAMES["first"](CLIPS, 0, 0)
    assert shown.shape == CLIPS.shape
    assert all(torch.equal(shown[:, :, time], CLIPS[:, :, 0]) for time in range(16))


def test_shuffled_frames_are_the_same_frames_in_another_order() -> None:
    shown = FRAMES["shuffled"](CLIPS, 0, 0)
    before, after = time_profile(CLIPS), time_profile(shown)
    assert torch.equal(before.sort(1).values, after.sort(1).values)
    orders = [tuple(row.argsort().argsort().tolist()) for row in after]
    assert len(set(orders)) == 7
    assert not (before == after).all(1).any()


def test_the_order_depends_on_the_clip_and_the_seed_and_not_on_the_batch() -> None:
    def shuffled(size: int, seed: int) -> np.ndarray:
        return extract_features({"a": Extractor(time_profile, "shuffled")}, batches(size), seed).features["a"]

    np.testing.assert_array_equal(shuffled(2, 0), shuffled(7, 0))
    assert not np.allclose(shuffled(7, 0), shuffled(7, 1))


def test_pixel_features_are_grey_means() -> None:
    found = pixel_features(CLIPS).reshape(7, 8, 12, 12)
    for slot, row, column in ((0, 0, 0), (7, 11, 11), (3, 5, 9)):
        block = CLIPS[:, :, 2 * slot : 2 * slot + 2, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        torch.testing.assert_close(found[:, slot, row, column], block.double().mean((1, 2, 3, 4)).float() / 255)
    assert pixel_features(CLIPS[:, :, :3, :10, :10]).shape == (7, 1152), "any length and size"
