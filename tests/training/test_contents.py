"""Contents decide what is the same: replaced files are seen, moved ones are not mistaken for others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mvd_ds.config import Recipe, load_recipe
from mvd_ds.files import read_json
from mvd_ds.training.contents import contents_of, inputs_of, is_finished
from mvd_ds.training.run_folder import RunFolder, Status


def _recipe(folder: Path, *overrides: str) -> Recipe:
    for name in ("image", "video"):
        _write_model(folder / name, 1.0)
    (folder / "train.txt").write_text("a.mp4 0\nb.mp4 1\n")
    return _again(folder, *overrides)


def _again(folder: Path, *overrides: str) -> Recipe:
    weights = [f"teachers.{name}.weights={folder / name}" for name in ("image", "video")]
    return load_recipe("quickstart_distill", [f"data.manifest={folder / 'train.txt'}", *weights, *overrides])


def _write_model(folder: Path, value: float, steps_between_saves: int = 5) -> None:
    folder.mkdir(exist_ok=True)
    config = json.dumps({"step": 7, "recipe": {"run": {"save_every_steps": steps_between_saves}, "model": {"depth": 2}}})
    (folder / "config.json").write_text(config)
    save_file({"weight": torch.full((3,), value)}, folder / "model.safetensors", metadata={"config": config})


def _finish(folder: Path, recipe: Recipe) -> RunFolder:
    run = RunFolder(folder)
    run.open(recipe, contents_of(recipe))
    run.model.mkdir()
    Status(run, last_step=10).write("finished", 10)
    return run


@pytest.mark.parametrize(
    ("override", "finished"),
    [
        ("run.stop_before_seconds=60", True),
        ("run.accept_changed=[data.manifest]", True),
        ("run.output=elsewhere", True),
        ("run.seed=1", False),
        ("optimizer.base_lr=1e-3", False),
    ],
)
def test_settings_that_change_no_number_make_no_other_run(tmp_path: Path, override: str, finished: bool) -> None:
    run = _finish(tmp_path / "run", _recipe(tmp_path))
    assert is_finished(run, _again(tmp_path), "model")
    assert is_finished(run, _again(tmp_path, override), "model") is finished


def test_every_input_of_a_recipe_has_a_digest(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path)
    assert contents_of(recipe).keys() == {
        *("data.manifest", "teachers.image.weights", "teachers.video.weights"),
        *("engine.config", "engine.teacher_config"),
    }
    mixed = _again(tmp_path, f"data.sources=[{{manifest: {tmp_path / 'train.txt'}, weight: 2.0}}]")
    assert "data.sources.0.manifest" in inputs_of(mixed) and "data.manifest" not in inputs_of(mixed)


@pytest.mark.parametrize("changed", ["data.manifest", "teachers.video.weights"])
def test_a_finished_run_on_other_contents_is_not_finished(
    tmp_path: Path, changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _finish(tmp_path / "run", _recipe(tmp_path))
    if changed == "data.manifest":
        (tmp_path / "train.txt").write_text("a.mp4 1\nb.mp4 0\n")
    else:
        _write_model(tmp_path / "video", 2.0)
    assert not is_finished(run, _again(tmp_path), "model")
    assert capsys.readouterr().out == f"{run.path} is finished, but {changed} had other contents then\n"


def test_the_same_contents_at_another_path_are_the_same(tmp_path: Path) -> None:
    run = _finish(tmp_path / "run", _recipe(tmp_path))
    shutil.move(tmp_path / "video", tmp_path / "moved")
    assert is_finished(run, _again(tmp_path, f"teachers.video.weights={tmp_path / 'moved'}"), "model")
    _write_model(tmp_path / "moved", 2.0)
    assert not is_finished(run, _again(tmp_path, f"teachers.video.weights={tmp_path / 'moved'}"), "model")


def test_what_a_model_folder_says_of_the_run_that_made_it_is_no_content(tmp_path: Path) -> None:
    before = contents_of(_recipe(tmp_path))
    _write_model(tmp_path / "video", 1.0, steps_between_saves=9)
    (tmp_path / "video" / "model.onnx").write_bytes(b"an export")
    assert contents_of(_again(tmp_path)) == before
    (tmp_path / "video" / "config.json").write_text('{"step": 8}')
    assert contents_of(_again(tmp_path))["teachers.video.weights"] != before["teachers.video.weights"]


def test_a_run_begun_anew_is_not_finished_until_it_is(tmp_path: Path) -> None:
    """Its product is the earlier one's until the end: killed before, it must not pass for finished."""
    run = _finish(tmp_path / "run", _recipe(tmp_path))
    _write_model(tmp_path / "video", 2.0)
    run.open(_again(tmp_path), contents_of(_again(tmp_path)))
    assert not is_finished(run, _again(tmp_path), "model")
    Status(run, last_step=10).write("finished", 10)
    assert is_finished(run, _again(tmp_path), "model")


def test_a_run_of_a_version_that_kept_no_contents_stays_finished(tmp_path: Path) -> None:
    run = _finish(tmp_path / "run", _recipe(tmp_path))
    run.contents.unlink()
    assert is_finished(run, _again(tmp_path), "model")


def test_digests_of_large_files_are_kept_and_made_again_when_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvd_ds.training.contents.KEPT_FROM_BYTES", 1)
    recipe, cache = _recipe(tmp_path), tmp_path / "control" / "digests.json"
    before = contents_of(recipe, cache)
    assert len(read_json(cache)) == 7
    with monkeypatch.context() as patch:
        patch.setattr("mvd_ds.training.contents._digest", lambda path: pytest.fail(f"{path} was read again"))
        assert contents_of(recipe, cache) == before
    _write_model(tmp_path / "video", 2.0)
    assert contents_of(recipe, cache)["teachers.video.weights"] != before["teachers.video.weights"]
    cache.write_text("[1]")
    assert contents_of(recipe, cache)["data.manifest"] == before["data.manifest"]


def test_a_folder_of_videos_is_known_by_names_and_sizes(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, f"data.manifest={tmp_path / 'videos'}")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"xx")
    before = contents_of(recipe)["data.manifest"]
    run = RunFolder(tmp_path / "videos" / "runs" / "run")
    run.open(recipe, {})
    (run.path / "picture.png").write_bytes(b"x")
    (tmp_path / "videos" / "notes.txt").write_text("seen")
    assert contents_of(recipe)["data.manifest"] == before, "a run that lies there changes nothing"
    (tmp_path / "videos" / "a.mp4").write_bytes(b"xxx")
    assert contents_of(recipe)["data.manifest"] != before
