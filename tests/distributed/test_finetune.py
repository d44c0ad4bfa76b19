"""Fine-tuning as shipped, made small: the same numbers in any layout, and after an interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launching import alone, launch, losses, metrics
from mvd_ds.models.classifiers.classifier_folder import open_classifier

pytestmark = pytest.mark.launch

RECIPE = "finetune_k400_large"
STEPS = 16
HOW = 8


def _accuracies(folder: Path) -> dict[int, float]:
    return {int(line["step"]): line["val/top1"] for line in metrics(folder) if "val/top1" in line}


def _predictions(folder: Path) -> dict[str, object]:
    return json.loads((folder / "validation.json").read_text())


def test_it_trains_validates_and_leaves_models_that_open(finetuned: Path) -> None:
    curve = losses(finetuned)
    assert len(curve) == STEPS and max(curve) < 20 and min(curve) > 0
    assert set(_accuracies(finetuned)) == {8, 16}
    found = _predictions(finetuned)
    assert (found["step"], found["samples"], len(found["predicted"])) == (16, 16, 16)
    right = [a == b for a, b in zip(found["predicted"], found["label"], strict=True)]
    assert sum(right) / 16 == found["top1"] == _accuracies(finetuned)[16], "the padded samples of the last batch are not counted"
    best = json.loads((finetuned / "best" / "config.json").read_text())
    assert best["top1"] == max(_accuracies(finetuned).values()) and best["label"] == "how" and len(best["classes"]) == HOW
    for part in ("best", "model"):
        model, card = open_classifier(finetuned / part)
        assert model.head.out_features == HOW and card.preprocessing.clip.frames == 8


def test_one_process_has_the_same_losses_accuracies_and_predictions(
    finetuned: Path, small_finetune: list[str], tmp_path: Path
) -> None:
    layout = ["batch.micro=8", "engine.config=zero1.json", "model.activation_checkpointing=0", "validation.batch=5"]
    alone("finetune", RECIPE, *small_finetune, *layout, f"run.output={tmp_path}")
    for name in ("loss/total", "loss/class", "loss/teacher"):
        assert losses(tmp_path, name) == pytest.approx(losses(finetuned, name), rel=1e-4), name
    assert _accuracies(tmp_path) == _accuracies(finetuned)
    assert _predictions(tmp_path) == _predictions(finetuned)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path, finetuned))
    assert all(torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5) for name in one | two)


def test_interrupted_and_resumed_equals_untouched(finetuned: Path, small_finetune: list[str], tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    command = ["finetune", RECIPE, *small_finetune, "teacher.placement=zero3", f"run.output={two}"]
    launch(2, *command, "run.stop_after_steps=11")
    shutil.copytree(two, one)
    assert "resuming from the checkpoint of step 11" in launch(2, *command).stdout
    assert losses(two) == losses(finetuned), "every step once, equal to the last bit"
    assert _accuracies(two) == _accuracies(finetuned) and _predictions(two) == _predictions(finetuned)
    for part in ("best", "model"):
        resumed, untouched = (load_file(folder / part / "model.safetensors") for folder in (two, finetuned))
        assert resumed.keys() == untouched.keys()
        assert all(torch.equal(resumed[name], untouched[name]) for name in resumed), part
    # The same checkpoint, gone on with by one process under ZeRO-1: the groups of layers find their shards.
    layout = ["batch.micro=8", "engine.config=zero1.json", "teacher.placement=replicated"]
    alone("finetune", RECIPE, *small_finetune, *layout, f"run.output={one}")
    assert losses(one) == pytest.approx(losses(finetuned), rel=1e-4)
    assert _predictions(one) == _predictions(finetuned)


def test_bf16_under_zero_2_follows_fp32(finetuned: Path, small_finetune: list[str], tmp_path: Path) -> None:
    settings = ["engine.precision=bf16", "engine.config=zero2.json", "optimizer.ema_decay=null"]
    launch(2, "finetune", RECIPE, *small_finetune, *settings, "schedule.epochs=1", f"run.output={tmp_path}")
    assert len(losses(tmp_path)) == 8
    for name in ("loss/class", "loss/teacher"):
        assert losses(tmp_path, name)[0] == pytest.approx(losses(finetuned, name)[0], rel=0.02), name
    line = metrics(tmp_path)[-1]
    assert line["optim/skipped_steps"] == 0 and line["optim/gradient_norm"] > 0


@pytest.mark.nightly
def test_an_epoch_of_vit_large_on_two_cpu_processes(videos: Path, tmp_path: Path) -> None:
    """The published ViT-L, 304 M parameters, under ZeRO-3 on tiny clips: 5.2 GiB in each process when it was written."""
    tiny = ["data.clip.frames=2", "data.clip.stride_frames=1", "data.clip.size_px=32", "data.workers=0", "batch.micro=4"]
    paths = [f"data.manifest={videos / 'val.txt'}", f"validation.manifest={videos / 'val.txt'}", f"run.output={tmp_path}"]
    length = ["batch.global=8", "schedule.epochs=1", "schedule.warmup_epochs=0", "run.log_every_steps=1"]
    common = ["label=how", "allow_empty_classes=true", "weights=null"]
    launch(2, "finetune", RECIPE, *tiny, *paths, *length, *common, timeout=1800)
    assert len(losses(tmp_path)) == 4
    model, _ = open_classifier(tmp_path / "model")
    assert sum(parameter.numel() for parameter in model.parameters()) > 302e6
    peak = metrics(tmp_path)[-1]["memory/peak_gib"]
    print(f"ViT-L under ZeRO-3 on two CPU processes: {peak:.1f} GiB each")
    # 16 bytes for each of a rank's half of the parameters are 2.3 GiB, its whole fp32 model before sharding is 1.1.
    assert peak < 7
