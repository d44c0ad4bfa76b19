"""The clip stream: the same for any number of processes, accumulation and workers, and after a restart."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.loader import ClipLoader
from video_files import recipe

BLOCKS = 3
GLOBAL = 4


def _stream(
    manifest: Path, world: int, micro: int, workers: int, first: int = 0, last: int = 7
) -> list[tuple[torch.Tensor, ...]]:
    """One entry per clip of the global stream: every tensor of the batch."""
    settings = recipe(manifest, batch={"micro": micro, "global": GLOBAL}, data__workers=workers)
    loaders = [ClipLoader(settings, BLOCKS, rank, world) for rank in range(world)]
    streams = [loader.batches(first, last) for loader in loaders]
    clips = []
    for _ in range((last - first) * GLOBAL // (world * micro)):
        for stream in streams:
            batch = next(stream)
            assert len(batch.sample) == micro
            clips += list(zip(batch.views[32], *batch[1:8], strict=True))
    assert all(next(stream, None) is None for stream in streams)
    return clips


def _same(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize(
    ("world", "micro", "workers"), [(1, 1, 0), (2, 2, 0), (2, 1, 0), (4, 1, 0), (1, 4, 2), (2, 1, 2), (4, 1, 1)]
)
def test_stream_does_not_depend_on_who_reads_it(twelve: Path, world: int, micro: int, workers: int) -> None:
    expected = _stream(twelve, 1, 4, 0)
    assert len({clip[0].numpy().tobytes() for clip in expected}) == 28
    assert _same(_stream(twelve, world, micro, workers), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_in_the_middle_of_an_epoch_goes_on_with_the_same_clips(twelve: Path, workers: int) -> None:
    expected = _stream(twelve, 1, 4, 0)
    assert _same(_stream(twelve, 2, 1, workers, first=2, last=5), expected[2 * GLOBAL : 5 * GLOBAL])


def test_epochs_hold_whole_steps_only(twelve: Path) -> None:
    loader = ClipLoader(recipe(twelve, batch={"micro": 5, "global": 5}), BLOCKS, 0, 1)
    assert (loader.clips_in_manifest, loader.steps_per_epoch) == (12, 2)
    samples = [batch.sample.tolist() for batch in loader.batches(0, 4)]
    for epoch in (samples[0] + samples[1], samples[2] + samples[3]):
        assert len(set(epoch)) == 10
    twice = ClipLoader(recipe(twelve, batch={"micro": 8, "global": 8}, data__clips_per_video=2), BLOCKS, 0, 1)
    assert (twice.clips_in_manifest, twice.steps_per_epoch) == (24, 3)


def test_fewer_clips_than_a_batch_is_an_error(twelve: Path) -> None:
    with pytest.raises(ConfigError, match=r"12 videos x data.clips_per_video 1 = 12 clips are fewer than batch.global 16"):
        ClipLoader(recipe(twelve, batch={"micro": 16, "global": 16}), BLOCKS, 0, 1)


def test_reading_does_not_touch_the_state_of_the_global_generator(twelve: Path) -> None:
    before = torch.get_rng_state()
    next(ClipLoader(recipe(twelve), BLOCKS, 0, 1).batches(0, 1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_travel_with_their_batch(twelve: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(twelve.parent, tmp_path / "copy")
    (tmp_path / "copy" / "05.mp4").write_bytes(b"no video")
    settings = recipe(tmp_path / "copy" / "train.txt", batch={"micro": 4, "global": 4}, data__workers=workers)
    batches = list(ClipLoader(settings, BLOCKS, 0, 1).batches(0, 3))
    faults = [fault for batch in batches for fault in batch.faults]
    assert len(faults) >= 1
    assert {fault.split(": ")[0] for fault in faults} == {str(tmp_path / "copy" / "05.mp4")}


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_videos_is_one_line(tmp_path: Path, workers: int) -> None:
    for number in range(8):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video")
    loader = ClipLoader(recipe(tmp_path, data__workers=workers), BLOCKS, 0, 1)
    with pytest.raises(ConfigError, match="20 videos in a row cannot be read") as caught:
        next(loader.batches(0, 1))
    assert "\n" not in str(caught.value)


def test_close_ends_the_workers(twelve: Path) -> None:
    loader = ClipLoader(recipe(twelve, data__workers=2), BLOCKS, 0, 1)
    batches = loader.batches(0, 1000)
    others = set(multiprocessing.active_children())
    assert isinstance(next(batches), ClipBatch)
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert next(batches, None) is None


def test_batches_of_a_mixture_say_which_clips_have_a_class(twelve: Path, tmp_path: Path) -> None:
    """One manifest with classes, one without: the class travels with its clip through workers, -1 stands for none."""
    files = sorted(path for path in twelve.parent.iterdir() if path.suffix == ".mp4")[:8]
    labelled, bare = tmp_path / "labelled.txt", tmp_path / "bare.txt"
    labelled.write_text("".join(f"{path} {number % 3}\n" for number, path in enumerate(files[:4])))
    bare.write_text("".join(f"{path}\n" for path in files[4:]))
    sources = [{"manifest": str(path), "weight": 1} for path in (labelled, bare)]
    changes = {"data__sources": sources, "batch": {"micro": 4, "global": 4}, "data__workers": 1}
    loader = ClipLoader(recipe(twelve, **changes, labels={"classes": 3}), BLOCKS, 0, 1)
    batches = list(loader.batches(0, 2))
    found = {int(video): int(label) for batch in batches for video, label in zip(batch.sample, batch.labels[:, 0], strict=True)}
    assert found == {0: 0, 1: 1, 2: 2, 3: 0, 4: -1, 5: -1, 6: -1, 7: -1}


def test_other_classes_than_the_recipes_are_one_line(twelve: Path, tmp_path: Path) -> None:
    file = next(path for path in twelve.parent.iterdir() if path.suffix == ".mp4")
    manifest = tmp_path / "train.txt"
    manifest.write_text(f'# classes: ["a", "b"]\n{file} 0\n{file} 1\n')
    with pytest.raises(ConfigError, match=r"labels.classes 3: label label of .*train.txt has 2 classes; set labels.classes=2"):
        ClipLoader(recipe(manifest, batch={"micro": 2, "global": 2}, labels={"classes": 3}), BLOCKS, 0, 1)
