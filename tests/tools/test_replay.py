"""A step that was not finite, run again from its dump."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mvd_ds
from mvd_ds.cli import main
from mvd_ds.config import ClipSettings, FinetuneRecipe, PreprocessingSettings, TrainingRecipe, load_recipe
from mvd_ds.data.augmentation.labelled import LabelledClips
from mvd_ds.data.loader import ClipLoader
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, open_classifier, save_classifier
from mvd_ds.models.init_from_checkpoint import init_classifier_from_checkpoint
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.finetune import read_labelled
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.classification import Classification
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.nonfinite.dump import write_dump
from mvd_ds.training.step import TeacherTargets

CPU = torch.device("cpu")


def write(folder: Path, recipe: TrainingRecipe, ruin: bool) -> list[float]:
    """The dump of the first step, of a student with one weight that is not finite or of a sound one; its losses."""
    student = build_predictor(recipe).train()
    if ruin:
        with torch.no_grad():
            student.decoders["video"].blocks[1].mlp.expand.weight[3, 5] = torch.inf
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    objective = MaskedPrediction(recipe, student, TeacherTargets(recipe, teachers, torch.float32), CPU)
    return dump(folder, recipe, student, objective, ClipLoader(recipe, recipe.drop_path_blocks, 0, 1))


def dump(folder: Path, recipe: Any, network: nn.Module, objective: Any, loader: ClipLoader) -> list[float]:
    """The dump of the first step of one process; its losses."""
    batches = loader.again(0)
    totals = [float(objective(batch, False).total.detach()) for batch in batches]
    clips = [[loader.path_of(index) for index in batch.sample.tolist()] for batch in batches]
    micros = [{"total": total, "terms": {}, "tensors": [], "clips": names} for total, names in zip(totals, clips, strict=True)]
    ranks = [{"rank": 0, "micro_batches": micros}]
    write_dump(folder, 1, recipe, Cluster(0, 1, CPU), network.state_dict(), batches, ranks, {})
    return totals


def test_a_ruined_weight_is_found(shrunk_recipe: TrainingRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    totals = write(tmp_path, shrunk_recipe, ruin=True)
    assert not any(total - total == 0 for total in totals)
    assert main(["replay", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count(": the same") == len(totals) and "DIFFERENT" not in said
    first = next(line for line in said.splitlines() if "not finite" in line)
    assert "in this order: output of decoders.video.blocks.1.mlp.expand, output of decoders.video.blocks.1.mlp.contract" in first
    assert "train/" in next(line for line in said.splitlines() if line.startswith("  clips: "))


def test_a_sound_step_has_the_losses_it_had(
    shrunk_recipe: TrainingRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    totals = write(tmp_path, shrunk_recipe, ruin=False)
    assert main(["replay", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(f"loss {total:.8g} then, {total:.8g} now: the same" in said for total in totals) and "not finite" not in said
    values = json.loads((tmp_path / "dump.json").read_text())
    values["ranks"][0]["micro_batches"][0]["total"] = totals[0] * 1.01
    (tmp_path / "dump.json").write_text(json.dumps(values))
    assert main(["replay", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("DIFFERENT") == 1


@pytest.mark.parametrize("ruin", [False, True])
def test_a_step_of_fine_tuning(ruin: bool, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mixed clips, drop path, dropout and a teacher; of a sound network and of one with a weight that is not finite."""
    shape, clip = {"embed_dim": 64, "depth": 3, "num_heads": 2, "patch_px": 8}, {"frames": 8, "size_px": 32}
    teacher = mvd_ds.build_classifier(shape, 8, **clip, seed=2)
    card = ClassifierCard(tuple(map(str, range(8))), PreprocessingSettings(clip=ClipSettings(**clip)))
    save_classifier(tmp_path / "teacher", teacher, teacher.state_dict(), card, {})
    settings = [f"data.manifest={videos / 'train.txt'}", "validation.manifest=null", "label=how", "weights=null", "dropout=0.5"]
    settings += [f"model.{key}={value}" for key, value in (shape | {"size": "null", "drop_path": 0.2}).items()]
    settings += [f"data.clip.{key}={value}" for key, value in clip.items()] + ["data.clip.stride_frames=1"]
    settings += ["batch.micro=4", "batch.global=8", "augmentation.mix={}", f"teacher={{weights: {tmp_path / 'teacher'}}}"]
    recipe = load_recipe("quickstart_finetune", settings)
    assert isinstance(recipe, FinetuneRecipe)
    labelled = read_labelled(recipe)
    network = init_classifier_from_checkpoint(recipe, 8).train()
    if ruin:
        with torch.no_grad():
            network.encoder.blocks[1].mlp.expand.weight[3, 5] = torch.inf
    frozen = open_classifier(tmp_path / "teacher")[0].requires_grad_(False)
    objective = Classification(recipe, network, frozen, 8, CPU)
    clips = LabelledClips(recipe, labelled.training, labelled.labels)
    totals = dump(tmp_path / "dump", recipe, network, objective, ClipLoader(recipe, recipe.drop_path_blocks, 0, 1, clips))
    assert main(["replay", str(tmp_path / "dump")]) == 0
    said = capsys.readouterr().out
    assert said.count(": the same") == len(totals) == 2
    assert ("in this order: output of encoder.blocks.1.mlp.expand" in said) == ruin


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dump.json", None),
        ("dump.json", b"{}"),
        ("dump.json", b"\xff"),
        ("student.safetensors", b"x"),
        ("rank-0.safetensors", None),
    ],
)
def test_a_broken_dump_is_one_line(
    name: str, content: bytes | None, shrunk_recipe: TrainingRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, shrunk_recipe, ruin=False)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["replay", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and name in lines[0]
