"""Clips by key: what is in them, and what happens to bad videos."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mvd_ds.config import ConfigError, OwnClip
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.dataset import ClipDataset
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.sampling import own_clip_indices
from mvd_ds.data.transforms import Box, cut
from mvd_ds.data.workers.quarantine import Quarantine
from mvd_ds.data.workers.stream import filled_batches
from mvd_ds.training.device_batch import mirror
from video_files import all_frames, picture, recipe

PLACES = list(range(8))


def _dataset(manifest: Path, **changes: object) -> ClipDataset:
    """Epochs of twelve clips: whole steps of four."""
    return ClipDataset(recipe(manifest, **{"batch": {"micro": 4, "global": 4}, **changes}), read_manifest(manifest), 5)


def _batch(dataset: ClipDataset, places: list[int], quarantine: Quarantine | None = None) -> ClipBatch:
    (filled,) = filled_batches(dataset, [places], len(places), dataset._data, quarantine or Quarantine(8))
    return dataset.batch(filled)


def test_a_batch_has_the_promised_shapes_and_types(twelve: Path) -> None:
    batch = _batch(_dataset(twelve), PLACES)
    assert set(batch.views) == {32}
    assert batch.views[32].shape == (8, 3, 4, 32, 32) and batch.views[32].dtype == torch.uint8
    assert batch.visible.shape == (8, 2, 8) and batch.visible.dtype == torch.int64  # grid (2, 4, 4), 0.75 masked
    assert batch.masked.shape == (8, 2, 24) and batch.masked.dtype == torch.int64
    together = torch.cat([batch.visible, batch.masked], dim=2).sort(dim=2).values
    assert (together == torch.arange(32)).all()
    assert (batch.visible.diff(dim=2) > 0).all() and (batch.masked.diff(dim=2) > 0).all()
    assert batch.drop_path.shape == (8, 2, 5) and batch.drop_path.dtype == torch.float32
    assert ((batch.drop_path >= 0) & (batch.drop_path < 1)).all() and batch.drop_path.unique().numel() == 80
    assert batch.labels.tolist() == [[sample, sample % 3] for sample in batch.sample.tolist()]
    assert batch.faults == []
    assert batch.place.tolist() == PLACES
    assert batch.flip.dtype == torch.bool and batch.flip.any() and not batch.flip.all()
    assert all(tensor.is_contiguous() for tensor in (*batch.views.values(), *batch[1:8]))


def test_an_epoch_shows_every_video_once_in_an_order_of_its_own(twelve: Path) -> None:
    dataset = _dataset(twelve)
    orders = [_batch(dataset, list(range(first, first + 12))).sample.tolist() for first in (0, 12, 0)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12))
    assert orders[0] == orders[2] != orders[1]


def test_the_clip_is_what_the_file_shows(twelve: Path) -> None:
    """Frames, crop and flip of a whole-video clip, found again in the file by brute force."""
    dataset = _dataset(twelve, data__clip={"frames": 4, "stride_frames": 2, "size_px": 40, "crop": "center", "flip": 0.5})
    batch = _batch(dataset, list(range(12)))
    starts, flips = set(), set()
    for clip, sample in zip(mirror(batch.views[40], batch.flip), batch.sample.tolist(), strict=True):
        frames = all_frames(twelve.parent / f"{sample:02d}.mp4")
        found = []
        for start in range(max(len(frames) - 6, 1)):
            chosen = frames[np.minimum(start + 2 * np.arange(4), len(frames) - (2 if len(frames) == 6 else 1))]
            found += [(start, flip) for flip in (False, True) if torch.equal(cut(chosen, Box(0, 8, 40, 40), 40, flip), clip)]
        assert len(found) == 1, (sample, found)
        starts.add(found[0][0])
        flips.add(found[0][1])
    assert flips == {False, True}
    assert len(starts) > 3


def test_views_of_other_sizes_are_the_same_crop(twelve: Path) -> None:
    teacher = {"size": "tiny", "patch_px": 8, "weights": "random"}
    changes = {
        "objective": "distillation",
        "pixels": None,
        "teachers": {
            "a": {**teacher, "input_px": 64, "patch_px": 16},
            "b": teacher,
            "c": {**teacher, "input_px": 32},
        },
    }
    batch = _batch(_dataset(twelve, **changes), PLACES)
    assert set(batch.views) == {32, 64}
    assert batch.views[64].shape == (8, 3, 4, 64, 64)
    shrunk = torch.nn.functional.avg_pool3d(batch.views[64].float(), (1, 2, 2))
    distance = (shrunk - batch.views[32].float()).abs().flatten(1).mean(1)
    assert (distance < 3).all()
    assert ((shrunk.roll(1, 0) - batch.views[32].float()).abs().flatten(1).mean(1) > 5 * distance).all()


def test_a_view_with_frames_of_its_own_is_the_same_moment_and_crop(twelve: Path) -> None:
    """8 frames in the time of 4, and 4 that are twice as far apart, found in the file by the student's start."""
    clip = {"frames": 4, "stride_frames": 2, "size_px": 40, "crop": "center"}
    teacher = {"size": "tiny", "patch_px": 8, "weights": "random", "resize": "bilinear", "time": "own_clip"}
    teachers = {"fine": {**teacher, "input_frames": 8}, "long": {**teacher, "input_frames": 6, "input_stride": 4}}
    distillation = {"objective": "distillation", "pixels": None, "model__patch_px": 8, "data__clip": clip}
    batch = _batch(_dataset(twelve, **distillation, teachers=teachers), list(range(12)))
    alone = _batch(_dataset(twelve, **distillation, teachers={"a": {**teacher, "time": None}}), list(range(12)))
    assert torch.equal(batch.views[40], alone.views[40]) and set(alone.views) == {40}
    fine, long = OwnClip(40, 8, 0.5), OwnClip(40, 6, 2.0)
    assert set(batch.views) == {40, fine, long}
    for number, sample in enumerate(batch.sample.tolist()):
        frames = all_frames(twelve.parent / f"{sample:02d}.mp4")
        last = len(frames) - (2 if len(frames) == 6 else 1)
        indices = [np.minimum(start + 2 * np.arange(4), last) for start in range(max(len(frames) - 6, 1))]
        found = [
            chosen
            for chosen in indices
            if torch.equal(cut(frames[chosen], Box(0, 8, 40, 40), 40, False), batch.views[40][number])
        ]
        for view in (fine, long):
            expected = frames[own_clip_indices(found[0], view, len(frames))]
            assert torch.equal(cut(expected, Box(0, 8, 40, 40), 40, False), batch.views[view][number])


def test_more_masks_leave_everything_else_as_it_is(twelve: Path) -> None:
    two, four = (_batch(_dataset(twelve, masking__masks_per_clip=masks), PLACES) for masks in (2, 4))
    assert torch.equal(two.views[32], four.views[32])
    assert torch.equal(two.visible, four.visible[:, :2])
    assert torch.equal(two.drop_path, four.drop_path[:, :2])


def test_seeds_change_everything(twelve: Path) -> None:
    one, other = (_batch(_dataset(twelve, run={"seed": seed}), PLACES) for seed in (0, 1))
    assert not torch.equal(one.sample, other.sample)
    assert not torch.equal(one.visible, other.visible)
    assert not torch.equal(one.drop_path, other.drop_path)


def test_repeated_sampling_cuts_several_clips_from_one_video(twelve: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _dataset(twelve, data__clips_per_video=4)
    opened = []
    original = dataset.source.open
    monkeypatch.setattr(dataset.source, "open", lambda index, needed: opened.append(index) or original(index, needed))
    batch = _batch(dataset, PLACES)
    assert len(dataset) == 48
    assert len(opened) == 2
    assert batch.sample.tolist() == [opened[0]] * 4 + [opened[1]] * 4
    assert len({clip.numpy().tobytes() for clip in batch.views[32]}) == 8
    assert len({mask.numpy().tobytes() for mask in batch.visible.flatten(0, 1)}) == 16


def _with_bad(manifest: Path, folder: Path, bad: list[int]) -> Path:
    """A copy of ``manifest`` in which videos ``bad`` are damaged or gone."""
    shutil.copytree(manifest.parent, folder)
    for number in bad:
        path = folder / f"{number:02d}.mp4"
        path.unlink() if number % 2 else path.write_bytes(b"no video")
    return folder / manifest.name


def test_a_bad_video_is_replaced_and_named_and_nobody_else_changes(twelve: Path, tmp_path: Path) -> None:
    keys = list(range(12))
    good = _batch(_dataset(twelve), keys)
    dataset = _dataset(_with_bad(twelve, tmp_path / "bad", [3, 4]))
    batch = _batch(dataset, keys)
    changed = (good.sample != batch.sample).nonzero().flatten().tolist()
    assert sorted(good.sample[changed].tolist()) == [3, 4]
    assert not {3, 4} & set(batch.sample.tolist())
    assert batch.labels[:, 0].tolist() == batch.sample.tolist()
    kept = [row for row in range(12) if row not in changed]
    assert torch.equal(good.views[32][kept], batch.views[32][kept])
    assert torch.equal(good.visible, batch.visible)
    named = [fault.split(": ") for fault in batch.faults]
    assert {(Path(path).name, reason) for path, reason in named} >= {("03.mp4", "no such file")}
    assert {Path(path).name for path, _ in named} == {"03.mp4", "04.mp4"}
    backwards = torch.cat([_batch(dataset, [place]).views[32] for place in keys[::-1]])
    assert torch.equal(backwards.flip(0), batch.views[32])


def test_twenty_bad_videos_in_a_row_end_the_run(twelve: Path, tmp_path: Path) -> None:
    manifest = _with_bad(twelve, tmp_path / "bad", list(range(11)))
    dataset = _dataset(manifest)
    with pytest.raises(ConfigError, match="20 videos in a row cannot be read") as caught:
        _batch(dataset, list(range(12)))
    assert len(re.findall(r"\d\d.mp4: (?:Invalid data|no such file|an empty file)", str(caught.value))) == 3
    assert str(caught.value).endswith("; and 17 more")


def test_decoder_masks_make_fewer_predicted_tokens_and_change_nothing_else(twelve: Path) -> None:
    whole = _batch(_dataset(twelve), PLACES)
    half = _batch(_dataset(twelve, masking__decoder="running_cell"), PLACES)
    assert half.masked.shape == (8, 2, 12) and whole.masked.shape == (8, 2, 24)
    assert torch.equal(half.visible, whole.visible)
    for some, everything in zip(half.masked.flatten(0, 1).tolist(), whole.masked.flatten(0, 1).tolist(), strict=True):
        assert set(some) < set(everything)


def test_images_are_one_frame_clips(tmp_path: Path) -> None:
    for number, extension in enumerate(("jpg", "png")):
        Image.fromarray(picture(number, 0, 56, 40)).save(tmp_path / f"{number}.{extension}")
    (tmp_path / "train.txt").write_text("0.jpg 0\n1.png 1\n")
    clip = {"frames": 1, "size_px": 40, "crop": "center"}
    changes: dict[str, Any] = {
        "objective": "image_reconstruction",
        "model__kind": "image",
        "model__tubelet_frames": 1,
        "model__position": "sincos2d",
    }
    dataset = _dataset(tmp_path / "train.txt", **{**changes, "data__clip": clip, "batch": {"micro": 2, "global": 2}})
    batch = _batch(dataset, [0, 1])
    image = batch.views[40][batch.sample.tolist().index(1), :, 0]
    assert torch.equal(image, torch.from_numpy(picture(1, 0, 56, 40)[:, 8:48]).permute(2, 0, 1))
