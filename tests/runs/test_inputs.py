"""A video that is replaced under its name is another input; a moved or copied folder is the same one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mvd_ds.config import ConfigError, LearningRecipe, dump, load_recipe
from mvd_ds.data.manifests.manifest import open_manifest
from mvd_ds.runs import inputs
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.training.checkpoint.fit import changes_since
from mvd_ds.training.contents import is_finished
from mvd_ds.training.run_folder import RunFolder, Status

KEY = "data.manifest.videos"


def recipe_of(folder: Path, *overrides: str) -> LearningRecipe:
    recipe = load_recipe("quickstart_video", [f"data.manifest={folder / 'train.txt'}", *overrides])
    assert isinstance(recipe, LearningRecipe)
    return recipe


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for number in range(9):
        (tmp_path / f"data/{number}.mp4").write_bytes(b"x" * (number + 1))
    (tmp_path / "data/train.txt").write_text("".join(f"{number}.mp4 0\n" for number in range(9)))
    return tmp_path / "data"


def test_a_replaced_video_is_noticed_on_resume_and_by_a_finished_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = recipe_of(data), RunFolder(tmp_path / "run")
    before = contents_with_videos(recipe)
    run.open(recipe, before)
    run.model.mkdir()
    Status(run, last_step=10).write("finished", 10)
    assert is_finished(run, recipe, "model", contents_with_videos)
    (data / "4.mp4").write_bytes(b"another video")
    assert not is_finished(run, recipe, "model", contents_with_videos)
    assert "is finished, but data.manifest.videos had other contents then" in capsys.readouterr().out
    manifest = {"recipe": dump(recipe), "contents": before}
    remedy = rf"content of {KEY} is not what it was; bring it back, .* or go on .* by run.accept_changed=\[{KEY}\]"
    with pytest.raises(ConfigError, match=remedy):
        changes_since(manifest, tmp_path, recipe, contents_with_videos(recipe))
    accepted = recipe_of(data, f"run.accept_changed=[{KEY}]")
    assert f"{KEY}: other contents" in changes_since(manifest, tmp_path, accepted, contents_with_videos(accepted))


def test_a_copy_elsewhere_is_the_same(data: Path, tmp_path: Path) -> None:
    before = contents_with_videos(recipe_of(data))
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy/3.mp4", (1, 1))
    assert contents_with_videos(recipe_of(tmp_path / "copy")) == before
    rooted = recipe_of(data, f"data.root={tmp_path / 'copy'}")
    (tmp_path / "copy/3.mp4").write_bytes(b"another video")
    assert contents_with_videos(rooted)[KEY] != before[KEY], "the root that the recipe names is looked at"


def test_a_folder_that_prepare_wrote_is_looked_at_through_its_list(data: Path, tmp_path: Path) -> None:
    (tmp_path / "prepared/train").mkdir(parents=True)
    (tmp_path / "prepared/train/prepare.json").write_text("{}")
    listed = (data / "train.txt").read_text()
    (tmp_path / "prepared/train.txt").write_text(f"# root: {data}\n{listed}")
    recipe = load_recipe("quickstart_video", [f"data.manifest={tmp_path / 'prepared'}"])
    before = contents_with_videos(recipe)
    assert before[KEY] == contents_with_videos(recipe_of(data))[KEY]
    (data / "4.mp4").write_bytes(b"another video")
    after = contents_with_videos(recipe)
    assert [name for name in before if before[name] != after[name]] == [KEY]
    assert KEY not in contents_with_videos(load_recipe("quickstart_video", [f"data.manifest={data}"]))


def test_of_a_long_list_some_files_are_looked_at(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    size = inputs._size
    monkeypatch.setattr(inputs, "MOST_FILES", 3)
    monkeypatch.setattr(inputs, "_size", lambda file: seen.append(Path(file).name) or size(file))
    contents_with_videos(recipe_of(data))
    assert seen == ["0.mp4", "4.mp4", "8.mp4"]


def test_other_captions_in_a_list_by_address_are_another_input(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(text: str) -> str:
        (data / "train.jsonl").write_text(text)
        manifest = open_manifest(data / "train.jsonl")
        monkeypatch.setattr(inputs, "open_manifest", lambda *_: manifest)
        return contents_with_videos(load_recipe("quickstart_video", ["data.manifest=s3://bucket/train.jsonl"]))["data.manifest"]

    lines = '{"path": "1.mp4", "text": "a cat"}\n{"path": "2.mp4", "text": "a dog"}\n'
    assert digest(lines) == digest(lines) != digest(lines.replace("dog", "cow"))
