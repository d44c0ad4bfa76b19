"""A test on real files under the launcher: what two processes say is what one by one says, to the last sample."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mvd_ds
from classifiers import write_classifier
from launching import alone, launch
from mvd_ds.config import ClipSettings, ConfigError, EvaluateRecipe, PreprocessingSettings, load_recipe
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.synthetic.motion import HOW
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.runs.evaluate import _with_clip_of, class_numbers
from mvd_ds.tools.report.evaluation_page import write_evaluation_page

CARD = ClassifierCard(tuple(HOW), PreprocessingSettings(clip=ClipSettings(frames=4, size_px=48)), "how")


def recipe(manifest: Path | str, *overrides: str) -> EvaluateRecipe:
    found = load_recipe("evaluate_5x3", ["weights=model", f"data.manifest={manifest}", *overrides], "evaluate")
    assert isinstance(found, EvaluateRecipe)
    return found


@pytest.fixture(scope="module")
def tested(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a test on two processes; one of its 17 videos is broken."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_classifier(folder / "model", pooling="ggem")
    lines = (videos / "val.txt").read_text().splitlines()
    (folder / "list.txt").write_text("\n".join([*lines, "broken.mp4 0 3"]) + "\n")
    shutil.copytree(videos / "val", folder / "val")
    (folder / "broken.mp4").write_bytes(b"no video")
    arguments = [f"weights={folder / 'model'}", f"data.manifest={folder / 'list.txt'}", "batch=12", "data.workers=1"]
    arguments.append("data.clip.sampling=dense")  # as the classifier was trained
    done = launch(2, "evaluate", "evaluate_2x3", *arguments, f"run.output={folder / 'run'}")
    assert "counted as wrong" in done.stdout and "broken.mp4" in done.stdout
    return folder


@pytest.mark.launch
def test_two_processes_say_what_one_video_after_the_other_says(tested: Path) -> None:
    classifier = mvd_ds.load(tested / "model")
    manifest = read_manifest(tested / "list.txt")
    with (tested / "run" / "predictions.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["path"] for line in lines] == [manifest.refs.path(index) for index in range(17)]
    right = 0
    for line, label in zip(lines[:-1], manifest.labels[:, 1], strict=False):
        guesses = classifier.classify(line["path"], segments=2, crops=3)
        assert [line[f"class_{place}"] for place in range(1, 6)] == [guess.name for guess in guesses]
        assert float(line["probability_1"]) == pytest.approx(guesses[0].probability, abs=2e-6)
        assert int(line["right"]) == (guesses[0].name == HOW[label])
        right += int(line["right"])
    assert (lines[-1]["readable"], lines[-1]["right"], lines[-1]["class_1"]) == ("0", "0", "")
    results = json.loads((tested / "run" / "evaluation.json").read_text())
    assert results["samples"] == 17 and results["unreadable"] == 1
    assert results["top1"] == right / 17
    assert len(results["unreadable_videos"]) == 1


@pytest.mark.launch
def test_the_page_needs_nothing_beside_it(tested: Path) -> None:
    page = (tested / "run" / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and "data:image/jpeg;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    assert all(name in page for name in HOW) and "broken.mp4" in page
    assert (tested / "run" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    shutil.rmtree(tested / "val")
    write_evaluation_page(tested / "run")
    assert "data:image/jpeg" not in (tested / "run" / "evaluation.html").read_text(), "videos may be gone by then"


def test_classes_are_found_by_name(videos: Path, tmp_path: Path) -> None:
    manifest = read_manifest(videos / "val.txt")
    label, numbers = class_numbers(recipe(videos / "val.txt"), manifest, CARD)
    assert label == "how" and numbers.tolist() == manifest.labels[:, 1].tolist()
    turned = CARD._replace(classes=tuple(reversed(HOW)))
    np.testing.assert_array_equal(class_numbers(recipe(videos / "val.txt"), manifest, turned)[1], 7 - manifest.labels[:, 1])
    numbered = CARD._replace(classes=tuple(map(str, range(8))))
    accepted = recipe(videos / "val.txt", "data.classes_by_position=true")
    np.testing.assert_array_equal(class_numbers(accepted, manifest, numbered)[1], manifest.labels[:, 1])
    with pytest.raises(ConfigError, match="nothing shows which number is which name"):
        class_numbers(recipe(videos / "val.txt"), manifest, numbered)
    what, labels = class_numbers(
        recipe(videos / "val.txt", "label=what"), manifest, numbered._replace(classes=tuple("0123456789"))
    )
    assert what == "what" and labels.tolist() == manifest.labels[:, 0].tolist()


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("a.mp4\n", [], "has no labels; write 'path label' lines"),
        ("a.mp4 0 1\n", [], "has no label 'how'; its labels are label_1, label_2"),
        ("a.mp4 0 1\n", ["label=label_3"], "has no label 'label_3'; did you mean 'label_"),
        ("a.mp4 3\na.mp4 8\n", [], "list.txt:2: label 8 is outside 0 to 7 (8 classes)"),
        ("a.mp4 -1\n", [], "list.txt:1: label -1 is outside 0 to 7"),
        ('# classes: ["orbit clockwise", "juggle"]\na.mp4 1\n', [], "1 of its 2 classes are not among the 8"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, text: str, overrides: list[str], words: str) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ConfigError) as error:
        class_numbers(recipe(tmp_path / "list.txt", *overrides), read_manifest(tmp_path / "list.txt"), CARD)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_several_manifests_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.sources mixes manifests for training; give the one to look at"):
        recipe("x", "data.sources=[{manifest: a, weight: 1}, {manifest: b, weight: 1}]")


def test_clips_are_as_the_classifier_was_trained() -> None:
    resolved = _with_clip_of(recipe("x", "data.clip.stride_frames=2"), CARD).data.clip
    assert (resolved.frames, resolved.size_px, resolved.stride_frames) == (4, 48, 2)
    with pytest.raises(ConfigError, match=r"data\.clip\.frames 8: the classifier model takes 4"):
        _with_clip_of(recipe("x", "data.clip.frames=8"), CARD)


def test_classify_prints_the_likeliest(videos: Path, tmp_path: Path) -> None:
    folder, video = write_classifier(tmp_path / "model"), next((videos / "val").glob("*.mp4"))
    done = alone("classify", str(folder), str(video), "no.mp4", "--top", "2", "--segments", "2", check=False)
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    guesses = mvd_ds.load(folder).classify(video, 2, segments=2)
    first = lines.index(str(video))
    assert lines[first + 1 :] == [f"  {100 * guess.probability:6.2f} %  {guess.name}" for guess in guesses]
    assert done.stderr.strip().splitlines()[-1] == "mvd_ds: no.mp4: cannot be read: no such file"
