"""A resume accepts some changes of settings and contents, and stops at the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.training.checkpoint.checkpoint import Checkpoints
from mvd_ds.training.checkpoint.fit import MAY_CHANGE
from plain_engine import plain_checkpoints


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return plain_checkpoints(tmp_path)


def train_and_save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.engine.train()
    checkpoints.save(step, {})


def test_what_changed_is_said_and_what_may_not_is_refused(
    tmp_path: Path, checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    train_and_save(checkpoints, 2)
    plain_checkpoints(tmp_path, "data.workers=7").load()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "since step-00000002 these changed: data.workers:" in said and "-> 7" in said
    with pytest.raises(ConfigError, match=r"step-00000002 cannot be resumed, these differ: masking\.ratio: .* -> 0\.5"):
        plain_checkpoints(tmp_path, "masking.ratio=0.5").load()


@pytest.mark.parametrize(
    ("line", "may"),
    [
        ("run.output: a -> b", True),
        ("run.seed: 0 -> 1", False),
        ("data.workers: 1 -> 2", True),
        ("data.clip.size_px: 224 -> 112", False),
        ("teachers.image.placement: zero3 -> replicated", True),
        ("teachers.image.target.normalise: False -> True", False),
        ("batch.micro: 8 -> 4", True),
        ("batch.global: 8 -> 4", False),
        ("masking.ratio: 0.9 -> 0.8", False),
        ("optimizer.base_lr: 0.1 -> 0.2", True),
        ("optimizer.layer_decay: 0.75 -> 0.7", False),
        ("weights: a -> b", True),
        ("teacher.weights: a -> b", True),
        ("teacher.temperature: 1.0 -> 2.0", False),
        ("augmentation.mix: None -> {}", False),
    ],
)
def test_what_may_change_between_attempts(line: str, may: bool) -> None:
    assert bool(MAY_CHANGE.match(line)) == may


def test_other_contents_stop_a_resume_unless_they_are_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = plain_checkpoints(tmp_path)
    before.contents = {"data.manifest": "1", "teachers.video.weights": "1", "engine.config": "1"}
    train_and_save(before, 2)
    now = {"data.manifest": "1", "teachers.video.weights": "2", "engine.config": "2"}
    refused = plain_checkpoints(tmp_path)
    refused.contents = now
    line = r"the content of teachers\.video\.weights is not what it was.*run\.accept_changed=\[teachers\.video\.weights\]$"
    with pytest.raises(ConfigError, match=line) as raised:
        refused.load()
    assert "\n" not in str(raised.value)
    accepted = plain_checkpoints(tmp_path, "run.accept_changed=[teachers.video.weights]")
    accepted.contents = now
    assert accepted.load().step == 2
    said = capsys.readouterr().out
    assert "engine.config: other contents; teachers.video.weights: other contents" in said
    train_and_save(accepted, 3)
    again = plain_checkpoints(tmp_path)
    again.contents = now
    assert again.load().step == 3, "they are the contents of the run from then on"


def test_moved_inputs_are_the_same_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = plain_checkpoints(tmp_path)
    before.contents = {"data.manifest": "1"}
    train_and_save(before, 2)
    moved = plain_checkpoints(tmp_path, "data.manifest=elsewhere/train.txt")
    moved.contents = {"data.manifest": "1"}
    assert moved.load().step == 2
    assert "-> elsewhere/train.txt, the same content" in capsys.readouterr().out
    other = plain_checkpoints(tmp_path, "data.manifest=elsewhere/train.txt")
    other.contents = {"data.manifest": "2"}
    with pytest.raises(ConfigError, match=r"the content of data\.manifest is not what it was"):
        other.load()
    accepted = plain_checkpoints(tmp_path, "data.manifest=elsewhere/train.txt", "run.accept_changed=[data.manifest]")
    accepted.contents = {"data.manifest": "2"}
    assert accepted.load().step == 2


def test_a_checkpoint_that_kept_no_contents_goes_on(tmp_path: Path, checkpoints: Checkpoints) -> None:
    train_and_save(checkpoints, 2)
    later = plain_checkpoints(tmp_path)
    later.contents = {"data.manifest": "1"}
    assert later.load().step == 2
