"""Fine-tuning as a user meets it: a folder per class without a manifest, and one clear line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mvd_ds
from launching import alone, metrics
from mvd_ds.cli import main
from mvd_ds.config import ClipSettings, PreprocessingSettings
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, save_classifier
from video_files import write_video

SHAPE = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_px": 8}
CLIP = {"frames": 4, "size_px": 16}
ANIMALS = ("cat", "dog", "eel")
SMALL = [
    "model.size=null",
    *(f"model.{key}={value}" for key, value in SHAPE.items()),
    *(f"data.clip.{key}={value}" for key, value in CLIP.items()),
    "data.clip.stride_frames=1",
    "data.workers=0",
    "batch.micro=4",
    "batch.global=4",
    "schedule.epochs=1",
    "schedule.warmup_epochs=0",
    "engine.precision=fp32",
    "weights=null",
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/{cat,dog,eel}/*.mp4 and val/{cat,eel}/*.mp4; one file of val is broken."""
    folder = tmp_path_factory.mktemp("tree")
    for split, names, count in (("train", ("cat", "dog", "eel"), 2), ("val", ("cat", "eel"), 2)):
        for name in names:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                write_video(folder / split / name / f"{number}.mp4", frames=8, width=48, height=32, seed=number)
    (folder / "val" / "eel" / "1.mp4").write_bytes(b"no video")
    return folder


def test_a_folder_per_class_becomes_a_classifier_that_names_them(tree: Path, tmp_path: Path) -> None:
    paths = [f"data.manifest={tree / 'train'}", f"validation.manifest={tree / 'val'}", f"run.output={tmp_path}"]
    said = alone("finetune", "finetune_folder", *SMALL, *paths).stdout
    assert "3 classes, 6 videos, 4 held-out videos" in said
    assert f"counted as wrong: {tree}/val/eel/1.mp4: " in said
    found = json.loads((tmp_path / "validation.json").read_text())
    assert found["label"] == [0, 0, 2, 2] and found["predicted"][3] == -1 and found["samples"] == 4
    assert metrics(tmp_path)[-1]["val/top1"] == found["top1"] <= 0.75
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["classes"] == ["cat", "dog", "eel"]
    told = alone("classify", str(tmp_path / "best"), str(tree / "train" / "dog" / "0.mp4")).stdout
    assert all(name in told for name in ("cat", "dog", "eel"))


def _fault(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["finetune", "finetune_folder", *SMALL, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        ("a.mp4 0\na.mp4 1\na.mp4 -3\n", None, ["train.txt:3", "label -3 is outside 0 to 1"]),
        ("a.mp4 0\na.mp4 2\n", None, ["1 of 3 classes have no video: 1", "allow_empty_classes=true"]),
        ("a.mp4\na.mp4\n", None, ["train.txt", "has no labels"]),
        ("a.mp4 0 1\na.mp4 1 0\n", None, ["has the labels label_1, label_2; choose one: label=label_1"]),
        ("a.mp4 0\na.mp4 1\n", "a.mp4 0\na.mp4 5\n", ["validation.manifest", "val.txt:2", "label 5 is outside 0 to 1"]),
        ("# labels: what\na.mp4 0\na.mp4 1\n", "# labels: how\na.mp4 0\n", ["validation.manifest", "has no label 'what'"]),
        ("a.mp4 0\na.mp4 1\n", None, ["2 videos x data.clips_per_video 2 = 4 clips"]),
    ],
)
def test_labels_that_cannot_be_learnt(
    train: str, validation: str | None, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "a.mp4", frames=8, width=32, height=32)
    (tmp_path / "train.txt").write_text(train)
    given = [f"data.manifest={tmp_path / 'train.txt'}", f"run.output={tmp_path / 'run'}", "validation.manifest=null"]
    if validation is not None:
        (tmp_path / "val.txt").write_text(validation)
        given.append(f"validation.manifest={tmp_path / 'val.txt'}")
    line = _fault(capsys, *given, "batch.global=8")
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("classes", "overrides", "words"),
    [
        ("abcd", ["keep_head=true", "weights={model}"], "its head has 4 classes, the manifest has 3; set keep_head to false"),
        ("abcd", ["teacher.weights={model}"], "tells 4 classes, the manifest has 3"),
        (("cat", "cow", "eel"), ["teacher.weights={model}"], "its class 1 is 'cow', the manifest's is 'dog'"),
        (ANIMALS, ["teacher.weights={model}", "data.clip.frames=2"], "sees clips of 4 frames and 16 px, data.clip has 2 and 16"),
        (ANIMALS, ["weights={model}", "model.embed_dim=32"], "another architecture: embed_dim is 64 there and 32 in the recipe"),
    ],
)
def test_weights_and_teachers_that_do_not_fit(
    classes: tuple[str, ...], overrides: list[str], words: str, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = mvd_ds.build_classifier(SHAPE, len(classes), **CLIP)
    preprocessing = PreprocessingSettings(clip=ClipSettings(**CLIP))
    save_classifier(tmp_path / "model", model, model.state_dict(), ClassifierCard(tuple(classes), preprocessing), {})
    given = [f"data.manifest={tree / 'train'}", "validation.manifest=null", f"run.output={tmp_path / 'run'}"]
    line = _fault(capsys, *given, *(text.format(model=tmp_path / "model") for text in overrides))
    assert words in line, line
