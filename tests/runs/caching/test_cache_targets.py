"""Targets on disk: what teachers would give, to the bit; made again only where it is missing; refused where it is of others."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.data.cached.index import read_index
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.masking_batch import device_masks
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.building import cached_types
from mvd_ds.runs.caching.cache_targets import cache_targets
from mvd_ds.training.cached_targets import CachedTargets
from mvd_ds.training.device_batch import to_device
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import TargetSource, TeacherTargets
from shrinking import shipped

CPU = torch.device("cpu")
#: Every kind of target, two crops, both mirrorings, masks drawn from a teacher's attention.
KINDS = [
    "teachers.video.target.blocks=[0, 2]",
    "teachers.video.target.mode=each",
    "teachers.video.target.tokens=all",
    "teachers.video.more_targets.joined={blocks: [1, 2], mode: concat}",
    "teachers.video.more_targets.summary={kind: summary, summary: mean}",
    "teachers.video.more_targets.relations={kind: relations}",
    "teachers.image.target.standardise=clip",
    "teachers.image.more_targets.gram={kind: token_relations, tokens: visible}",
    "decoder.depth=0",
    "masking.kind=attention",
    "masking.teacher=video",
    "masking.pick=multinomial",
    "targets.crops=2",
    "data.clip.flip=0.5",
]
SMALL = ["data.clip.flip=0", "targets.clips_per_file=3"]


@pytest.fixture(scope="module")
def few(shrunk: list[str], videos: Path) -> list[str]:
    """Overrides of a run on 16 videos, whose cache has files of 3."""
    return [*shrunk, f"data.manifest={videos / 'val.txt'}", *SMALL]


@pytest.fixture(scope="module")
def kept(shrunk: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of every kind of target in fp32."""
    folder = tmp_path_factory.mktemp("kept") / "cache"
    make(shrunk, folder, *KINDS, "targets.store=fp32")
    return folder


def make(shrunk: list[str], folder: Path, *more: str) -> TrainingRecipe:
    """Fill a cache and return the recipe that takes its targets from it."""
    recipe = shipped([*shrunk, *more, f"targets.cache={folder}"])
    cache_targets(recipe, "run")
    return recipe


def absolute(videos: Path) -> list[str]:
    """The lines of the training list, with whole paths."""
    lines = (videos / "train.txt").read_text().splitlines(keepends=True)
    return [f"{videos}/{line}" for line in lines if not line.startswith("#")]


def targets_of(recipe: TrainingRecipe, source: TargetSource, epoch: int) -> list[dict[str, Tensor]]:
    """The targets of the first step of an epoch, by name, and the masks."""
    loader = ClipLoader(recipe, recipe.drop_path_blocks, 0, 1)
    found = []
    for batch in loader.batches(epoch * loader.steps_per_epoch, epoch * loader.steps_per_epoch + 1):
        inputs, given = source.draw(to_device(batch, CPU))
        found.append(source(inputs, given) | {"visible": inputs.visible, "masked": inputs.masked})
    loader.close()
    return found


def both(shrunk: list[str], cache: Path, tmp_path: Path, *more: str, epochs: int = 3) -> list[tuple[dict[str, Tensor], ...]]:
    """Targets of live teachers and those of a cache, micro batch by micro batch, of the first step of some epochs."""
    crops = read_index(cache).crops
    live = shipped([*shrunk, *more, f"targets.crops={crops}"])
    read = shipped([*shrunk, *more, f"targets.crops={crops}", f"targets.cache={cache}"])
    teachers = {name: build_teacher(name, settings, live) for name, settings in live.teachers.items()}
    asked = TeacherTargets(live, teachers, torch.float32, device_masks(live))
    cached = CachedTargets(read, cached_types(read, RunFolder(tmp_path / "run"), True), device_masks(read))
    return [
        pair
        for epoch in range(epochs)
        for pair in zip(targets_of(live, asked, epoch), targets_of(read, cached, epoch), strict=True)
    ]


def test_every_kind_of_target_is_what_its_teacher_gives_to_the_bit(shrunk: list[str], kept: Path, tmp_path: Path) -> None:
    pairs = both(shrunk, kept, tmp_path, *KINDS)
    names = {"image", "image_gram", "video", "video_joined", "video_summary", "video_relations", "visible", "masked"}
    for live, cached in pairs:
        assert live.keys() == cached.keys() == names
        assert [name for name in live if not torch.equal(live[name], cached[name])] == []
    assert len({cached["image"].sum().item() for _, cached in pairs}) == len(pairs) == 12


def test_a_run_may_take_less_than_a_cache_holds(shrunk: list[str], kept: Path, tmp_path: Path) -> None:
    """One mask and targets of single tokens: then a live teacher computes no others, and gives the same."""
    fewer = ["teachers.video.target.blocks=[0, 2]", "teachers.video.target.mode=concat", "data.clip.flip=1", "targets.crops=2"]
    for live, cached in both(shrunk, kept, tmp_path, *fewer):
        assert all(torch.equal(live[name], cached[name]) for name in ("image", "video")) and live["image"].shape[1] > 1


@pytest.mark.parametrize(("store", "most"), [("bf16", 3e-3), ("fp16", 4e-4), ("int8", 2e-2)])
def test_smaller_numbers_state_their_error(few: list[str], tmp_path: Path, store: str, most: float) -> None:
    more = ["teachers.video.target.blocks=[0, 2]", "teachers.video.target.mode=each", f"targets.store={store}"]
    make(few, tmp_path / "cache", *more)
    index = read_index(tmp_path / "cache")
    assert index.outputs["video"].groups == (2 if store == "int8" else 1) and index.outputs["video"].store == store
    largest = {"image": 0.0, "video": 0.0}
    for live, cached in both(few, tmp_path / "cache", tmp_path, *more, epochs=1):
        for name in largest:
            error = (live[name] - cached[name]).double()
            largest[name] = max(largest[name], float(error.abs().max()))
            assert float(error.norm() / live[name].double().norm()) < 2 * index.errors[name]["relative_rms"]
    for name, found in largest.items():
        assert 0 < index.errors[name]["relative_rms"] < most
        assert 0 < found <= index.errors[name]["absolute"] * (1 + 1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("teachers.video.target.blocks=[1]", "teachers.video.targets.target.blocks: [0, 2] -> [1]"),
        (
            "teachers.image.target.norm=final teachers.image.more_targets.gram.norm=final",
            "teachers.image.targets.target.norm: none -> final",
        ),
        ("teachers.image.target.kind=summary", "teachers.image.targets.target.kind: features -> summary"),
        ("teachers.image.frame_in_tubelet=1", "teachers.image.frame_in_tubelet: 0 -> 1"),
        ("data.clip.stride_frames=2", "data.clip.stride_frames: 1 -> 2"),
        ("data.clip.crop=center", "data.clip.crop: multiscale -> center"),
        ("targets.crops=3", "targets.crops: 2 -> 3"),
        ("model.patch_px=16 teachers.image.input_px=16 teachers.video.input_px=16", "model.patch_px: 8 -> 16"),
        ("run.seed=5", "run.seed: 0 -> 5"),
        ("engine.precision=bf16", "engine.precision: fp32 -> bf16"),
        ("data.clips_per_video=2", "data.clips_per_video: 1 -> 2"),
        ("teachers.video.more_targets.other.kind=relations", "teachers.video.targets.other: not in the cache"),
        ("masking.blocks=[0]", "teachers.video.attention_blocks: [-1] -> [0]"),
    ],
)
def test_a_cache_of_other_targets_is_refused_by_name(
    shrunk: list[str], kept: Path, tmp_path: Path, change: str, said: str
) -> None:
    clear = ["teachers.image.target.standardise=none"] if "image.target.kind" in change else []
    recipe = shipped([*shrunk, *KINDS, *clear, f"targets.cache={kept}", *change.split(" ")])
    with pytest.raises(ConfigError, match="holds other targets") as refused:
        cached_types(recipe, RunFolder(tmp_path), True)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_other_weights_and_other_videos_are_refused(shrunk: list[str], kept: Path, videos: Path, tmp_path: Path) -> None:
    shorter = tmp_path / "train.txt"
    shorter.write_text("".join(absolute(videos)[:-1]))
    longer, turned = tmp_path / "longer.txt", tmp_path / "turned.txt"
    longer.write_text("".join([*absolute(videos), absolute(videos)[0]]))
    turned.write_text("".join(reversed(absolute(videos))))
    image = next(item for item in shrunk if item.startswith("teachers.image.weights=")).partition("=")[2]
    for change, said in {
        f"teachers.video.weights={image}": "teachers.video.content of weights: ",
        f"data.manifest={shorter}": "data.videos.number: 64 -> 63",
        f"data.manifest={longer}": "data.videos.number: 64 -> 65",
        f"data.manifest={turned}": "data.videos.names: ",
    }.items():
        recipe = shipped([*shrunk, *KINDS, f"targets.cache={kept}", change])
        with pytest.raises(ConfigError, match="holds other targets") as refused:
            cached_types(recipe, RunFolder(tmp_path), True)
        assert said in str(refused.value)


def test_weights_that_are_not_here_are_not_needed(shrunk: list[str], kept: Path, tmp_path: Path) -> None:
    gone = [f"teachers.{name}.weights={tmp_path / 'gone'}" for name in ("image", "video")]
    assert cached_types(shipped([*shrunk, *KINDS, *gone, f"targets.cache={kept}"]), RunFolder(tmp_path), True)


def test_damaged_files_are_refused_and_made_again(few: list[str], tmp_path: Path) -> None:
    recipe = make(few, tmp_path / "cache")
    file = tmp_path / "cache" / "targets-00003.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match=r"targets-00003\.safetensors: has .* bytes, not .*run `mvd_ds cache-targets` again"):
        ClipLoader(recipe, recipe.drop_path_blocks, 0, 1)
    cache_targets(recipe, "run")
    assert file.read_bytes() == whole
    file.write_bytes(whole[:100] + b"?" + whole[101:])
    loader = ClipLoader(recipe, recipe.drop_path_blocks, 0, 1)
    with pytest.raises(ConfigError, match=r"targets-00003\.safetensors: does not hold what .*index\.json says; remove it"):
        list(loader.batches(0, loader.steps_per_epoch))
    with pytest.raises(ConfigError, match=r"holds other targets .*data\.clip\.flip: the cache has no mirrored views"):
        cached_types(shipped([*few, "data.clip.flip=0.5", f"targets.cache={tmp_path / 'cache'}"]), RunFolder(tmp_path), True)


def test_a_full_disk_is_one_line(few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recipe = shipped([*few, f"targets.cache={tmp_path / 'cache'}"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(ConfigError, match=r"targets-00000\.safetensors cannot be written: No space left on device; files"):
            cache_targets(recipe, "run")
        patch.undo()
        patch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "total used free")(10, 9, 1))
        with pytest.raises(ConfigError, match=r"GiB are needed and 0\.0 GiB of the disk are free; choose targets\.store=int8"):
            cache_targets(recipe, "run")
    assert not list((tmp_path / "cache").glob("*targets-*")) and not list((tmp_path / "cache").glob(".*.partial"))


def test_a_folder_of_others_and_what_cannot_be_cached_are_one_line(shrunk: list[str], kept: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"targets\.cache: state the folder"):
        cache_targets(shipped(shrunk), "run")
    with pytest.raises(ConfigError, match=r"holds other targets: .*targets\.crops: 2 -> 1"):
        make(shrunk, kept, *[item for item in KINDS if "crops" not in item], "targets.store=fp32")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty, and no cache of targets"):
        make(shrunk, tmp_path)
    with pytest.raises(ConfigError, match=r"notes\.txt: is a file; name a folder"):
        make(shrunk, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ConfigError, match="needs pixels, and no teachers and targets"):
        from mvd_ds.config import load_recipe

        load_recipe("videomae_base", ["targets.crops=2"])


def test_a_video_that_cannot_be_read_is_named_and_replaced_in_training(
    shrunk: list[str], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    listed = tmp_path / "train.txt"
    listed.write_text("".join(absolute(videos)[:15]) + f"{tmp_path}/broken.mp4 0 0\n")
    recipe = make(shrunk, tmp_path / "cache", *SMALL, f"data.manifest={listed}")
    assert f"no targets: {tmp_path}/broken.mp4: " in capsys.readouterr().out
    assert list(json.loads((tmp_path / "cache" / "index.json").read_text())["faults"]) == ["15"]
    loader = ClipLoader(recipe, recipe.drop_path_blocks, 0, 1)
    batches = list(loader.batches(0, 2))
    faults = [fault for batch in batches for fault in batch.faults]
    assert len(faults) == 1 and "broken.mp4: targets.cache has no targets of it: " in faults[0]
    assert all(15 not in batch.sample for batch in batches) and all(batch.cached["video"].any() for batch in batches)
