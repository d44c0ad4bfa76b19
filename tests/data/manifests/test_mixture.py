"""Which video stands where: one manifest, and several mixed by weight."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvd_ds.config import ConfigError
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.mixture import VideoOrder, read_mixture
from mvd_ds.data.randomness import keyed_generator
from video_files import recipe, write_video


def test_one_manifest_is_a_permutation_of_its_epoch() -> None:
    order = VideoOrder(3, [7], [1.0])
    for epoch in range(3):
        expected = keyed_generator(3, "order", epoch).permutation(7).tolist()
        assert [order.video(epoch, place) for place in range(7)] == expected


@pytest.mark.parametrize(("weights", "shares"), [((1, 1), (10, 10)), ((3, 1), (15, 5)), ((1, 0.05), (19, 1)), ((2, 1), (13, 7))])
def test_weights_are_shares_of_every_epoch(weights: tuple[float, float], shares: tuple[int, int]) -> None:
    order = VideoOrder(0, [16, 4], weights)
    for epoch in range(4):
        videos = [order.video(epoch, place) for place in range(20)]
        assert (sum(video < 16 for video in videos), sum(video >= 16 for video in videos)) == shares


def test_every_video_of_a_manifest_is_shown_equally_often() -> None:
    order = VideoOrder(0, [16, 4], (1, 1))
    shown = Counter(order.video(epoch, place) for epoch in range(16) for place in range(20))
    assert {shown[video] for video in range(16)} == {10}
    assert {shown[video] for video in range(16, 20)} == {40}


@pytest.mark.parametrize("places", [20, 17])
def test_what_was_seen_of_each_manifest_is_counted_to_the_clip(places: int) -> None:
    order = VideoOrder(0, [16, 4], (1, 1))
    shown: Counter[int] = Counter()
    for epoch in range(3):
        for place in range(places):
            assert order.seen(epoch, places, place) == [shown[0] / 16, shown[1] / 4]
            shown[int(order.video(epoch, place) >= 16)] += 1
    assert VideoOrder(0, [16, 4], (1, 1)).seen(2, places, 5) == order.seen(2, places, 5), "after a restart"


def test_manifests_are_mixed_all_over_the_epoch_and_anew_in_each() -> None:
    order = VideoOrder(0, [100, 100], (1, 1))
    epochs = [[order.video(epoch, place) for place in range(200)] for epoch in range(2)]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert 30 < sum(video < 100 for video in epoch[:100]) < 70


def test_a_replacement_comes_from_the_same_manifest() -> None:
    order = VideoOrder(0, [16, 4], (1, 1))
    generator = np.random.default_rng(0)
    assert {order.replacement(2, generator) for _ in range(300)} == set(range(16))
    assert {order.replacement(17, generator) for _ in range(100)} == set(range(16, 20))


def _mixed(folder: Path, twelve: Path, **changes: object) -> dict[str, object]:
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"{number}.mp4", frames=8, width=56, height=40, seed=50 + number)
    sources = [{"manifest": str(twelve), "weight": 2}, {"manifest": str(folder), "weight": 1}]
    return {"data__sources": sources, "batch": {"micro": 5, "global": 5}, **changes}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_mixes_videos_and_images_of_two_places(twelve: Path, tmp_path: Path, workers: int) -> None:
    settings = recipe(twelve, **_mixed(tmp_path / "other", twelve, data__workers=workers))
    loader = ClipLoader(settings, 3, 0, 1)
    assert (loader.clips_in_manifest, loader.steps_per_epoch) == (15, 3)
    batches = list(loader.batches(0, 6))
    samples = np.concatenate([batch.sample.numpy() for batch in batches])
    for epoch in (samples[:15], samples[15:]):
        assert sum(sample >= 12 for sample in epoch) == 5
    assert batches[0].labels.shape == (5, 0), "one of them has no labels"
    assert loader.seen(6) == {"data/epochs_train": 20 / 12, "data/epochs_other": 10 / 3}
    assert loader.seen(1)["data/epochs_other"] == sum(sample >= 12 for sample in samples[:5]) / 3
    paths = {loader._dataset.path(sample) for sample in samples.tolist()}
    assert {Path(path).parent for path in paths} == {twelve.parent, tmp_path / "other"}


def test_equal_labels_stay(twelve: Path) -> None:
    settings = recipe(twelve, data__sources=[{"manifest": str(twelve), "weight": 1}] * 2)
    assert read_mixture(settings.data).labels[:, 0].tolist() == [*range(12), *range(12)]


def test_labels_that_number_their_classes_otherwise_are_not_mixed(twelve: Path, tmp_path: Path) -> None:
    """Class 0 of one list is another class in the other; fine-tuning matches them by name and takes no numbers from here."""
    lists = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path, names in zip(lists, ('["cat", "dog"]', '["dog", "cat"]'), strict=True):
        path.write_text(f"# classes: {names}\n{twelve.parent / '00.mp4'} 0\n")
    data = recipe(twelve, data__sources=[{"manifest": str(path), "weight": 1} for path in lists]).data
    assert read_mixture(data).labels.shape == (2, 0)


def test_a_faulty_manifest_among_several_is_named(twelve: Path, tmp_path: Path) -> None:
    missing = {"manifest": str(tmp_path / "gone.txt"), "weight": 1}
    settings = recipe(twelve, data__sources=[{"manifest": str(twelve), "weight": 1}, missing])
    with pytest.raises(ConfigError, match=r"gone.txt: no such manifest"):
        ClipLoader(settings, 3, 0, 1)


def test_temperature_brings_shares_nearer_and_sizes_are_the_weights_where_none_is_said(twelve: Path, tmp_path: Path) -> None:
    settings = _mixed(tmp_path / "other", twelve)
    sources = [{"manifest": source["manifest"]} for source in settings["data__sources"]]  # type: ignore[attr-defined]

    def shares(temperature: float) -> list[str]:
        mixture = read_mixture(recipe(twelve, **{**settings, "data__sources": sources, "data__temperature": temperature}).data)
        return [line.split(": ", 1)[1] for line in mixture.rounds(2.0)]

    assert shares(1.0) == ["12 videos, 80.0% of clips, 2.00 epochs", "3 videos, 20.0% of clips, 2.00 epochs"]
    # Square roots of 12 and 3: two to one.
    assert shares(2.0) == ["12 videos, 66.7% of clips, 1.67 epochs", "3 videos, 33.3% of clips, 3.33 epochs"]
    assert read_mixture(recipe(twelve).data).rounds(2.0) == []


def test_images_beside_videos_are_clips_of_one_frame_for_any_ranks_and_after_a_restart(twelve: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 56, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    sources = [{"manifest": str(twelve)}, {"manifest": str(tmp_path / "images")}]

    def clips(ranks: int, first: int = 0) -> list[tuple[int, bytes]]:
        settings = recipe(twelve, data__sources=sources, data__temperature=3.0, batch={"micro": 2, "global": 4})
        streams = [ClipLoader(settings, 3, rank, ranks).batches(first, 10) for rank in range(ranks)]
        batches = [next(stream) for _ in range((10 - first) * 2 // ranks) for stream in streams]
        return [
            (int(one), view.numpy().tobytes())
            for batch in batches
            for one, view in zip(batch.sample, batch.views[32], strict=True)
        ]

    expected = clips(1)
    assert clips(2) == expected and clips(2, first=6) == expected[24:]
    still = {number: all(np.array_equal(frame, _frames(view)[0]) for frame in _frames(view)) for number, view in expected}
    assert {number >= 12 for number, same in still.items() if same} == {True} and {n for n in still if n >= 12} == {
        *range(12, 20)
    }


def _frames(view: bytes) -> np.ndarray:
    return np.frombuffer(view, np.uint8).reshape(3, -1, 32, 32).swapaxes(0, 1)
