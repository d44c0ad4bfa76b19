"""The checkpoints of a run from outside: listed, verified, pruned, converted, by the command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mvd_ds.cli import main
from mvd_ds.config import FinetuneRecipe, load_recipe
from mvd_ds.models.classifiers.classifier_folder import open_classifier
from mvd_ds.models.init_from_checkpoint import init_classifier_from_checkpoint
from mvd_ds.training.checkpoint.checkpoint import Checkpoints
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import save_shards
from mvd_ds.training.run_folder import RunFolder
from plain_engine import PlainEngine, plain_checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Checkpoints:
    """A run with the checkpoints of steps 1 to 4."""
    checkpoints = plain_checkpoints(tmp_path / "run", "run.keep_last=9")
    (tmp_path / "run").mkdir()
    for step in range(1, 5):
        checkpoints.engine.train()
        checkpoints.ema.update(torch.tensor(0.0))
        checkpoints.save(step)
    return checkpoints


def names(run: Checkpoints) -> list[str]:
    return sorted(path.name for path in run.folder.checkpoints.glob("step-*"))


def damage(run: Checkpoints, step: int, kind: str = "model_states") -> Path:
    file = next((run.folder.checkpoints / f"step-{step:08d}").glob(f"*{kind}*.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_listed(run: Checkpoints, capsys: pytest.CaptureFixture[str], inside: str) -> None:
    assert main(["checkpoints", str(run.folder.path / inside)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[-1].split() == ["4", "0.000", "1", "0", "yes", "whole,", "latest"]


def test_damage_is_found(run: Checkpoints, capsys: pytest.CaptureFixture[str]) -> None:
    file = damage(run, 3)
    assert main(["checkpoints", str(run.folder.path)]) == 0, "sizes are right"
    capsys.readouterr()
    assert main(["checkpoints", str(run.folder.path), "--verify"]) == 2
    told = capsys.readouterr()
    assert told.out.splitlines()[3].endswith(f"damaged: {file}: its content is not what was written (another sha256)")
    assert "digests are right, latest" in told.out.splitlines()[4]
    assert told.err.startswith("mvd_ds: ") and "1 of 4 damaged: step-00000003" in told.err
    (file.parent / "manifest.json").write_text("{")
    assert main(["checkpoints", str(run.folder.path)]) == 2
    assert "damaged: " in capsys.readouterr().out.splitlines()[3]
    assert main(["checkpoints", str(file.parent.with_name("step-00000002"))]) == 0


def test_pruned(run: Checkpoints, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(run.folder.path), "--prune", "1", "--keep-every", "2"]) == 0
    assert names(run) == ["step-00000002", "step-00000004"]
    assert "removed" in capsys.readouterr().out
    damage(run, 4)
    assert main(["checkpoints", str(run.folder.path), "--prune", "1"]) == 2
    assert "nothing is removed: none of the 1 that would stay is whole" in capsys.readouterr().err
    assert names(run) == ["step-00000002", "step-00000004"]


def test_converted(run: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert = ["checkpoints", str(run.folder.path), "--to", "safetensors", "--output"]
    assert main([*convert, str(tmp_path / "both")]) == 0
    weights, average = (load_file(tmp_path / "both" / name) for name in ("model.safetensors", "ema.safetensors"))
    assert all(torch.equal(weights[name], value) for name, value in run.engine.module.state_dict().items())
    assert torch.equal(average["0.weight"], run.ema.averages[0]) and not torch.equal(average["0.weight"], weights["0.weight"])
    assert main([*convert, str(tmp_path / "average"), "--ema", "--step", "4"]) == 0
    assert all(torch.equal(average[name], value) for name, value in load_file(tmp_path / "average" / "model.safetensors").items())
    assert sorted(path.name for path in (tmp_path / "average").iterdir()) == ["config.json", "model.safetensors"]
    damage(run, 4, "ema")
    capsys.readouterr()
    assert main([*convert, str(tmp_path / "damaged")]) == 2
    assert "its content is not what was written" in capsys.readouterr().err and not (tmp_path / "damaged").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "safetensors"], "--to needs --output, the folder to write"),
        (["--to", "safetensors", "--output", "out", "--step", "9"], "there is no step-00000009; there are step-00000001"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    run: Checkpoints, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["checkpoints", str(run.folder.path), *arguments]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def test_no_checkpoints_and_no_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(tmp_path)]) == 2
    assert "has no checkpoints" in capsys.readouterr().err
    plain = plain_checkpoints(tmp_path, ema_decay=None)
    plain.save(1)
    assert main(["checkpoints", str(tmp_path), "--to", "safetensors", "--output", str(tmp_path / "out"), "--ema"]) == 2
    assert "holds no moving average: the run had no optimizer.ema_decay" in capsys.readouterr().err


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_classifier_comes_out_ready_to_use(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], at_hand: bool
) -> None:
    data = [f"data.manifest={videos / 'train.txt'}", "label=how", "weights=null", "model.depth=1", "validation.manifest=null"]
    recipe = load_recipe("quickstart_finetune", [*data, "allow_empty_classes=true"])
    assert isinstance(recipe, FinetuneRecipe)
    if not at_hand:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"manifest": str(tmp_path / "gone.txt")})})
    engine = PlainEngine()
    engine.module = init_classifier_from_checkpoint(recipe, 8)
    engine.optimizer = torch.optim.AdamW(engine.module.parameters())
    Checkpoints(RunFolder(tmp_path), recipe, Cluster(0, 1, torch.device("cpu")), engine, Ema(engine, None), save_shards).save(1)
    assert main(["checkpoints", str(tmp_path), "--to", "safetensors", "--output", str(tmp_path / "out")]) == 0
    model, card = open_classifier(tmp_path / "out")
    state = model.state_dict()
    assert all(state[name].equal(value) for name, value in engine.module.state_dict().items())
    assert len(card.classes) == 8 and card.label == "how" and card.preprocessing.clip == recipe.data.clip
    assert ("classes are numbered" in capsys.readouterr().out) != at_hand


def test_a_run_that_prunes_at_the_same_time_is_no_fault(
    run: Checkpoints, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its save has removed what was about to be removed here."""
    remove = shutil.rmtree

    def raced(path: Path) -> None:
        remove(path)
        remove(path)

    monkeypatch.setattr("mvd_ds.tools.checkpoints.shutil.rmtree", raced)
    assert main(["checkpoints", str(run.folder.path), "--prune", "1"]) == 0
    assert "1 stay" in capsys.readouterr().out
