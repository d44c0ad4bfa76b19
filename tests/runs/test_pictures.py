"""Pictures of training runs without a launcher: which steps, which clips, what a perfect network would show."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.data.manifests.manifest import open_manifest
from mvd_ds.files import read_json
from mvd_ds.models.teachers import build_teacher
from mvd_ds.objectives.targets import gather_masked, pixel_targets
from mvd_ds.runs.pictures import NAME_LETTERS, TrainingPictures, chosen_videos, clip_name, describe_clip, plan_pictures
from mvd_ds.runs.student import build_predictor
from mvd_ds.runs.visualization import observe, picture_batch, reconstruct
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import PixelTargets, TeacherTargets, normalise, to_unit
from shrinking import shipped

CPU = torch.device("cpu")
NETWORK = {"size": "null", "embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8}


class Engine:
    """What pictures take of a DeepSpeed engine."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.training = module, True

    def __call__(self, *inputs: torch.Tensor) -> Any:
        assert not self.module.training and not torch.is_grad_enabled()
        return self.module(*inputs)

    def eval(self) -> None:
        self.module.eval()

    def train(self) -> None:
        self.module.train()


class Objective:
    def __init__(self, targets: Any) -> None:
        self.targets = targets


class Writer:
    """Keeps what would go to TensorBoard."""

    def __init__(self) -> None:
        self.shown: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}

    def show(self, step: int, images: dict[str, Any], values: dict[str, Any]) -> None:
        self.shown[step] = (images, values)

    def profile(self, step: int, name: str, values: list[float]) -> None:
        assert (step in self.shown, name, values) == (True, "gradients/norm_by_block", [0.5])


def stage_one(name: str, videos: Path, *more: str) -> TrainingRecipe:
    frames = 1 if name == "mae_base" else 8
    settings = [*(f"model.{key}={value}" for key, value in NETWORK.items()), f"data.manifest={videos / 'train.txt'}"]
    settings += [f"data.clip.frames={frames}", "data.clip.size_px=32", "data.clip.stride_frames=1", "data.workers=0"]
    settings += ["decoder.embed_dim=32", "decoder.num_heads=2", "decoder.depth=1", "masking.ratio=0.75"]
    recipe = load_recipe(name, [*settings, "run.pictures_every_steps=5", "run.picture_clips=3", *more])
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def take(recipe: TrainingRecipe, folder: Path, steps: list[int], targets: Any = None) -> tuple[TrainingPictures, Writer]:
    manifest, writer = plan_pictures(recipe), Writer()
    assert manifest is not None
    engine = Engine(build_predictor(recipe).train())
    pictures = TrainingPictures(recipe, RunFolder(folder), Cluster(0, 1, CPU), engine, manifest, last_step=12)
    for step in steps:
        assert pictures.due(step) == (step in (5, 10, 12))
        if pictures.due(step):
            pictures(step, Objective(targets), writer, {"encoder 0": 0.5})  # type: ignore[arg-type]
        assert engine.module.training
    return pictures, writer


@pytest.mark.parametrize(("name", "sheets"), [("mae_base", 1), ("videomae_base", 4)])
def test_stage_one_at_its_steps_and_at_the_end(name: str, sheets: int, videos: Path, tmp_path: Path) -> None:
    recipe = stage_one(name, videos)
    _, writer = take(recipe, tmp_path, list(range(1, 13)), PixelTargets(recipe))
    assert list(writer.shown) == [5, 10, 12]
    assert all(len(images) == sheets for images, _ in writer.shown.values())
    assert len(list((tmp_path / "pictures" / "step-00000012").glob("*.png"))) == sheets
    for first, last in zip(writer.shown[5][0].values(), writer.shown[12][0].values(), strict=True):
        assert first == last, "nothing was trained in between"


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_student_and_its_teachers(precision: torch.dtype, shrunk: list[str], tmp_path: Path) -> None:
    recipe = shipped(shrunk)
    teachers = {name: build_teacher(name, settings, recipe).to(precision) for name, settings in recipe.teachers.items()}
    student = build_predictor(recipe).eval().to(precision)
    clip = torch.randint(0, 255, (2, 3, 8, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    batch = picture_batch(recipe, {32: clip})
    seen = observe(recipe, student, student, TeacherTargets(recipe, teachers, precision), batch, CPU, heads=[1])
    assert (batch.masked == picture_batch(recipe, {32: clip.flip(0)}).masked).all(), "masks belong to places, not to clips"
    for name, teacher in teachers.items():
        features = teacher(normalise(to_unit(clip), precision))
        assert torch.equal(seen.targets[name], features)
        assert torch.equal(seen.norms[name], features.float().norm(dim=-1))
        aim = gather_masked(features, batch.masked).float()
        wanted = torch.nn.functional.smooth_l1_loss(seen.predictions[name].float(), aim, reduction="none").mean(-1)
        assert torch.allclose(seen.losses[name], wanted, atol=1e-6)
        assert len(seen.similarity[name]) == 3 and float(seen.similarity[name][0].diagonal().mean()) == pytest.approx(1, abs=1e-3)
    assert seen.hidden is not None and torch.equal(seen.hidden, batch.masked[:, 0])
    assert seen.attention[1].sum(-1).tolist() == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("name", ["mae_base", "videomae_base"])
def test_a_perfect_network_reconstructs_the_clip(name: str, videos: Path) -> None:
    recipe = stage_one(name, videos)
    frames = recipe.data.clip.frames
    clip = torch.randint(0, 255, (2, 3, frames, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    masked = picture_batch(recipe, {32: clip}).masked
    assert recipe.pixels is not None
    unit = normalise(to_unit(clip), torch.float32) if recipe.pixels.normalise == "joint" else to_unit(clip)
    perfect = gather_masked(pixel_targets(unit, recipe.model.tubelet_frames, 8, recipe.pixels), masked)
    assert torch.equal(reconstruct(recipe, recipe.pixels, clip, masked[:, 0], perfect), clip)
    other = reconstruct(recipe, recipe.pixels, clip, masked[:, 0], torch.zeros_like(perfect))
    share = float((other != clip).float().mean())
    assert 0.7 < share < 0.76, "visible patches stay, 3 of 4 become flat"


def test_a_clip_that_cannot_be_read_is_black_and_named(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    good = sorted((videos / "val").glob("*.mp4"))[0]
    (tmp_path / "held_out.txt").write_text(f"{tmp_path / 'bad.mp4'}\n{good}\n")
    recipe = stage_one("videomae_base", videos, f"run.picture_manifest={tmp_path / 'held_out.txt'}")
    with caplog.at_level(logging.INFO):
        pictures, _ = take(recipe, tmp_path / "run", [5], PixelTargets(recipe))
    assert "black in the pictures" in caplog.text + capsys.readouterr().out
    assert pictures.batch is not None
    black, shown = pictures.batch.views[32]
    assert not black.any() and shown.any()
    assert np.asarray(Image.open(tmp_path / "run" / "pictures" / "step-00000005" / "clip-1.png")).std() > 10


def test_none_are_planned_where_none_are_wanted_and_a_wrong_manifest_is_told(videos: Path, tmp_path: Path) -> None:
    assert plan_pictures(stage_one("mae_base", videos, "run.pictures_every_steps=0")) is None
    with pytest.raises(ConfigError, match=r"nowhere\.txt"):
        plan_pictures(stage_one("mae_base", videos, f"run.picture_manifest={tmp_path / 'nowhere.txt'}"))


def manifest_of(folder: Path, head: str, labels: list[str]) -> Any:
    (folder / "list.txt").write_text(head + "".join(f"part/{place}.mp4{label}\n" for place, label in enumerate(labels)))
    return open_manifest(folder / "list.txt")


def test_the_clips_are_of_different_classes_and_named(tmp_path: Path) -> None:
    head = '# labels: what how\n# classes: {"what": ["cat", "dog", "owl"]}\n'
    sorted_by_class = manifest_of(tmp_path, head, [" 0 5", " 0 6", " 0 7", " 1 5", " 1 6", " 2 5"])
    assert chosen_videos(sorted_by_class, 3) == [0, 3, 5], "one of each class"
    assert chosen_videos(sorted_by_class, 5) == [0, 3, 5, 1, 4] and sorted(chosen_videos(sorted_by_class, 9)) == list(range(6))
    clip = describe_clip(sorted_by_class, 3)
    assert clip == {"file": "part/3.mp4", "classes": {"what": "dog", "how": "5"}} and clip_name(clip) == "dog, 5 (part/3.mp4)"
    assert describe_clip(manifest_of(tmp_path, head, [" 0 -1", " 1 6"]), 0)["classes"] == {"what": "cat"}
    plain = manifest_of(tmp_path, "", [""] * 4)
    assert chosen_videos(plain, 3) == [0, 1, 2] and clip_name(describe_clip(plain, 2)) == "part/2.mp4"
    long = clip_name({"file": "folder/" * 30 + "the_video.mp4", "classes": {"what": "a" * 200}})
    assert len(long) == NAME_LETTERS and long.endswith("the_video.mp4)")


def test_names_stand_in_numbers_and_above_the_picture(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("mvd_ds.runs.pictures.still", lambda sheet, size: (drawn.extend(sheet), np.zeros((2, 2, 3), np.uint8))[1])
    for name in ("mae_base", "videomae_base"):
        recipe = stage_one(name, videos)
        take(recipe, tmp_path / name, [5], PixelTargets(recipe))
        clips = read_json(tmp_path / name / "pictures" / "step-00000005" / "numbers.json")["clips"]
        assert len({clip["classes"]["what"] for clip in clips}) == 3 and all((videos / clip["file"]).is_file() for clip in clips)
        if name == "mae_base":
            assert "clip: " + "; ".join(", ".join(clip["classes"].values()) for clip in clips) in drawn
        else:
            assert all(f"clip: {clip_name(clip)}" in drawn for clip in clips)
