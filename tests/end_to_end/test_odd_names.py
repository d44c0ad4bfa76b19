"""Files and classes of any name: every command ends well, prints escapes, and what it wrote comes back as it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import mvd_ds
from launching import alone
from mvd_ds.cli import main
from mvd_ds.evaluation.csv_files import read_csv
from mvd_ds.evaluation.feature_files import read_features
from mvd_ds.files import read_json
from video_files import write_video

CLASSES = ("=cmd|'C calc'!A0", "caf\udce9", 'red\x1b[31m, "q"')
VIDEOS = ("-1.mp4", "line\nbreak.mp4", "v\udce9.mp4", "broken\udcff.mp4")
SMALL = ["data.clip.frames=4", "data.clip.stride_frames=1", "data.clip.size_px=32", "data.workers=0"]
SHAPE = {"embed_dim": 16, "depth": 1, "num_heads": 1, "patch_px": 16}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each class with three videos and a broken file."""
    folder = tmp_path_factory.mktemp("odd")
    plain = write_video(folder / "plain.mp4", frames=8, width=48, height=48)
    for name in CLASSES:
        inner = folder / "videos" / name
        os.makedirs(inner)
        for video in VIDEOS:
            (inner / video).write_bytes(b"no video" if video.startswith("broken") else plain.read_bytes())
    plain.unlink()
    return folder


@pytest.fixture(scope="module")
def model(odd: Path) -> Path:
    """A classifier of the folder's classes, whose weights are random."""
    from mvd_ds.config import ClipSettings, PreprocessingSettings
    from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, save_classifier

    classifier = mvd_ds.build_classifier(SHAPE, len(CLASSES), 4, 32)
    clip = ClipSettings(frames=4, stride_frames=1, size_px=32)
    card = ClassifierCard(tuple(sorted(CLASSES)), PreprocessingSettings(clip=clip))
    save_classifier(odd / "model", classifier, classifier.state_dict(), card, {})
    return odd / "model"


def run(odd: Path, command: str, recipe: str, *overrides: str) -> Path:
    """The folder of a command on the videos, which ended well."""
    output = odd / command
    assert main([command, recipe, f"data.manifest={odd / 'videos'}", f"run.output={output}", *SMALL, *overrides]) == 0
    return output


def paths(odd: Path) -> set[str]:
    return {str(odd / "videos" / name / video) for name in CLASSES for video in VIDEOS}


def test_classes_come_back_from_a_model(model: Path) -> None:
    assert mvd_ds.load(model).classes == tuple(sorted(CLASSES))


def test_evaluate(odd: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = run(odd, "evaluate", "evaluate_5x3", f"weights={model}")
    rows = read_csv(output / "predictions.csv")
    assert {row["path"] for row in rows} == paths(odd)
    assert {row["label_class"] for row in rows} == set(CLASSES)
    assert read_json(output / "evaluation.json")["classes"] == sorted(CLASSES)
    assert not any(
        line.startswith(("=", "-", "+", "@")) for line in (output / "predictions.csv").read_text(errors="replace").split(",")
    )
    page = (output / "evaluation.html").read_text(encoding="utf-8")
    assert "\x1b" not in page and "top-5" not in page and "caf\\xe9" in page
    said = capfd.readouterr().out
    assert "broken\\xff.mp4" in said and "\x1b" not in said and "top-5" not in said


def test_features(odd: Path, model: Path) -> None:
    output = run(odd, "features", "features", f"weights={model}")
    features, lines = read_features(output)
    assert len(features) == len(lines) == 9
    rows = read_csv(output / "index.csv")
    assert {row["path"] for row in rows} == paths(odd)
    assert all(Path(row["path"]).parent.name == row["label_class"] for row in rows)


def test_classify(odd: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sound = sorted(path for path in paths(odd) if "broken" not in path)
    assert main(["classify", str(model), *sound]) == 0
    said = capfd.readouterr().out
    assert "\x1b" not in said and "caf\\xe9" in said and said.count("=cmd") == 12
    assert main(["classify", str(model), str(odd / "videos" / CLASSES[1] / VIDEOS[3])]) == 2
    assert "broken\\xff.mp4: cannot be read" in capfd.readouterr().err


def test_visualize(odd: Path, model: Path) -> None:
    videos = [str(odd / "videos" / CLASSES[1] / video) for video in VIDEOS[:3]]
    assert main(["visualize", str(model), *videos, "--output", str(odd / "pictures")]) == 0
    assert {path.name for path in (odd / "pictures").glob("*.png")} == {f"{Path(video).stem}.png" for video in VIDEOS[:3]}


@pytest.mark.launch
def test_trainings_and_their_report(odd: Path) -> None:
    network = [f"model.{key}={value}" for key, value in SHAPE.items()] + ["model.size=null"]
    network += [f"decoder.{key}={SHAPE[key]}" for key in ("embed_dim", "depth", "num_heads")]
    length = ["batch.micro=2", "batch.global=4", "schedule.epochs=null", "schedule.steps=4", "engine.precision=fp32"]
    length += ["schedule.stop_after_epochs=null", "schedule.warmup_epochs=null", "schedule.warmup_steps=1"]
    data = [f"data.manifest={odd / 'videos'}", "data.max_bad_share=0.9"]
    alone(
        "pretrain", "videomae_small", *data, *SMALL, *network, *length, "run.pictures_every_steps=2", f"run.output={odd / 'one'}"
    )
    alone(
        *("finetune", "finetune_folder", *data, "data.workers=0", f"weights={odd / 'one' / 'model'}", "schedule.epochs=2"),
        *("schedule.warmup_epochs=1", f"run.output={odd / 'two'}"),
    )
    assert mvd_ds.load(odd / "two" / "model").classes == tuple(sorted(CLASSES))
    for name in ("one", "two"):
        status = json.loads((odd / name / "status.json").read_text(encoding="utf-8"))
        assert all(fault.partition(".mp4: ")[0] + ".mp4" in paths(odd) for fault in status["replaced_videos"])
    assert read_json(odd / "one" / "status.json")["replaced_videos"]
    alone("report", str(odd / "one"), str(odd / "two"), "--output", str(odd / "report"))
    assert (odd / "report" / "report.html").is_file()
