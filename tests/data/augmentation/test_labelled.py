"""Labelled clips by key: the same for every layout, and augmented as the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mvd_ds.config import FinetuneRecipe, load_recipe
from mvd_ds.data.augmentation.labelled import LabelledClips
from mvd_ds.data.batch import LabelledBatch
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.transforms import center_box, cut
from mvd_ds.data.workers.quarantine import Quarantine
from mvd_ds.data.workers.stream import filled_batches
from video_files import all_frames

ALL = [
    "augmentation={rand_augment: {}, erasing: {probability: 0.5}, mix: {}}",
    "data.clip.crop=random_resized",
    "data.clip.flip=0.5",
    "dropout=0.5",
]


def _recipe(manifest: Path, *overrides: str) -> FinetuneRecipe:
    clip = ["data.clip.frames=4", "data.clip.size_px=24", "data.workers=0", "batch.micro=4", "batch.global=8"]
    recipe = load_recipe("quickstart_finetune", [f"data.manifest={manifest}", *clip, *overrides])
    assert isinstance(recipe, FinetuneRecipe)
    return recipe


def _clips(recipe: FinetuneRecipe) -> LabelledClips:
    manifest = read_manifest(recipe.data.manifest)
    return LabelledClips(recipe, manifest, manifest.labels[:, 0])


def _batch(clips: LabelledClips, places: list[int]) -> LabelledBatch:
    (filled,) = filled_batches(clips, [places], len(places), clips._data, Quarantine(8))
    return clips.batch(filled)


def _stream(recipe: FinetuneRecipe, world: int) -> list[tuple[Any, ...]]:
    """One entry per clip of the first three steps; a partner is named by what it is, not where."""
    loaders = [ClipLoader(recipe, recipe.drop_path_blocks, rank, world, _clips(recipe)) for rank in range(world)]
    streams, clips = [loader.batches(0, 3) for loader in loaders], []
    while batches := [batch for stream in streams if (batch := next(stream, None)) is not None]:
        for batch in batches:
            assert isinstance(batch, LabelledBatch)
            clip = batch.views[24]
            parts = (clip, batch.flip, batch.label, clip[batch.partner], *batch[4:9])
            clips += list(zip(*(part.clone() for part in parts), strict=True))
    return clips


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize(("world", "micro", "workers"), [(2, 4, 0), (1, 8, 0), (2, 4, 1)])
def test_the_stream_and_its_pairs_do_not_depend_on_the_layout(
    twelve: Path, world: int, micro: int, workers: int, repeats: int
) -> None:
    common = [*ALL, f"data.clips_per_video={repeats}"]
    expected = _stream(_recipe(twelve, *common), 1)
    found = _stream(_recipe(twelve, *common, f"batch.micro={micro}", f"data.workers={workers}"), world)
    assert len(found) == len(expected) == 24
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert {tuple(clip[5].shape) for clip in expected} == {(6,)} and any(clip[5].any() for clip in expected)


def test_two_clips_of_a_video_share_frames_and_label_and_are_not_mixed(twelve: Path) -> None:
    recipe = _recipe(twelve, "data.clips_per_video=2", "augmentation.mix={}", "data.clip.sampling=uniform")
    batch = _batch(_clips(recipe), list(range(24, 32)))
    assert (batch.sample[0::2] == batch.sample[1::2]).all() and (batch.label[0::2] == batch.label[1::2]).all()
    assert torch.equal(batch.views[24][0::2], batch.views[24][1::2]), "no crop and no augmentation: the same frames"
    assert (batch.sample != batch.sample[batch.partner]).all()
    cropped = _clips(_recipe(twelve, "data.clips_per_video=2", "data.clip.crop=random_resized"))
    views = _batch(cropped, list(range(24, 28))).views[24]
    assert not torch.equal(views[0], views[1]), "each has a crop of its own"


def test_without_augmentation_a_clip_is_its_frames(twelve: Path) -> None:
    batch = _batch(_clips(_recipe(twelve)), [0, 1, 2, 3])
    assert (batch.own_share == 1).all() and not batch.box.any() and batch.dropout.shape == (4, 0)
    assert batch.partner.tolist() == [0, 1, 2, 3] and batch.drop_path.shape == (4, 1, 4)
    for row, (clip, sample) in enumerate(zip(batch.views[24], batch.sample.tolist(), strict=True)):
        frames = all_frames(twelve.parent / f"{sample:02d}.mp4")
        starts = [cut(frames[s : s + 4], center_box(40, 56), 24) for s in range(len(frames) - 3)]
        assert any(torch.equal(clip, start) for start in starts)
        assert batch.label[row] == sample


def test_an_epoch_has_other_clips_and_the_seed_decides(twelve: Path) -> None:
    places, clips = [0, 1, 2, 3], _clips(_recipe(twelve, *ALL))
    first, again = _batch(clips, places), _batch(_clips(_recipe(twelve, *ALL)), places)
    assert all(torch.equal(a, b) for a, b in zip(first[1:9], again[1:9], strict=True))
    assert torch.equal(first.views[24], again.views[24])
    other_epoch = _batch(clips, [place + clips.clips_per_epoch for place in places])
    other_seed = _batch(_clips(_recipe(twelve, *ALL, "run.seed=1")), places)
    for other in (other_epoch, other_seed):
        assert not torch.equal(first.views[24], other.views[24]) and not torch.equal(first.drop_path, other.drop_path)
        assert not torch.equal(first.own_share, other.own_share) and not torch.equal(first.dropout, other.dropout)
