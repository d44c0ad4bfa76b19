"""The clip stream: the same for any number of processes, accumulation and workers, and after a restart."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.loader import ClipLoader, evaluation_batches
from mvd_ds.data.manifest import read_manifest
from video_files import all_frames, recipe, write_video

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
            clips += list(zip(batch.views[32], *batch[1:6], strict=True))
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


def test_a_loader_that_hangs_ends_the_run_and_names_the_file(tmp_path: Path) -> None:
    for number in range(8):
        os.mkfifo(tmp_path / f"{number}.mp4")  # opening it waits for a writer that never comes
    loader = ClipLoader(recipe(tmp_path, data__workers=1, data__stall_seconds=1.0), BLOCKS, 0, 1)
    with pytest.raises(ConfigError, match=r"no batch came for data.stall_seconds 1; workers were reading: .*/\d.mp4\. Remove"):
        next(loader.batches(0, 1))


def test_a_killed_worker_ends_the_run_in_one_line(twelve: Path) -> None:
    loader = ClipLoader(recipe(twelve, data__workers=1, data__prefetch_batches=1), BLOCKS, 0, 1)
    batches = loader.batches(0, 1000)
    others = set(multiprocessing.active_children())
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    worker.kill()
    with pytest.raises(ConfigError, match=r"a loader process died .*/dev/shm") as caught:
        for _ in range(1000):
            next(batches)
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


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_every_video_once_in_order(twelve: Path, workers: int) -> None:
    manifest = read_manifest(twelve)
    data = recipe(twelve, data__workers=workers).data
    batches = list(evaluation_batches(data, manifest, batch=5, frames=4, size_px=40))
    assert [len(ok) for _, _, ok in batches] == [5, 5, 2]
    assert torch.cat([labels for _, labels, _ in batches]).tolist() == [[n, n % 3] for n in range(12)]
    assert all(ok.all() and ok.dtype == torch.bool for _, _, ok in batches)
    clips = torch.cat([clip for clip, _, _ in batches])
    assert clips.shape == (12, 3, 4, 40, 40) and clips.dtype == torch.uint8
    for number, clip in enumerate(clips):
        frames = all_frames(twelve.parent / f"{number:02d}.mp4")[[0, 2, 4, 6 if number else 4], :, 8:48]
        assert torch.equal(clip, torch.from_numpy(frames).permute(3, 0, 1, 2))
    some = list(evaluation_batches(data, manifest, batch=5, frames=4, size_px=40, videos=[7, 2]))
    assert torch.equal(some[0][0], clips[[7, 2]])


def test_evaluation_marks_bad_videos_and_keeps_their_place(tmp_path: Path) -> None:
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", frames=4, width=48, height=48, seed=number)
    (tmp_path / "1.mp4").write_bytes(b"no video")
    faults: list[str] = []
    batches = evaluation_batches(recipe(tmp_path).data, read_manifest(tmp_path), 8, 4, 48, faults=faults)
    ((clip, labels, ok),) = batches
    assert ok.tolist() == [True, False, True]
    assert clip[1].max() == 0 and clip[2].max() > 0
    assert labels.shape == (3, 0)
    assert faults == [f"{tmp_path / '1.mp4'}: Invalid data found when processing input"]
