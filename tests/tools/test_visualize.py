"""``visualize`` on files and folders as users have them: every kind of network, every format, and what is refused."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import mvd_ds
from mvd_ds.cli import main
from mvd_ds.config import ClipSettings, PreprocessingSettings
from mvd_ds.files import read_json
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, save_classifier
from mvd_ds.models.weights import save_model
from mvd_ds.runs.student import build_predictor
from shrinking import shipped


@pytest.fixture(scope="module")
def student(shrunk: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "model"
    recipe = shipped(shrunk)
    save_model(folder, build_predictor(recipe).state_dict(), recipe, {})
    return folder


@pytest.fixture
def video(videos: Path) -> Path:
    return sorted((videos / "val").glob("*.mp4"))[0]


def visualize(*arguments: object) -> int:
    return main(["visualize", *map(str, arguments), "--device", "cpu"])


def teachers_of(shrunk: list[str]) -> dict[str, str]:
    return {name: str(teacher.weights) for name, teacher in shipped(shrunk).teachers.items()}


def test_a_student_beside_its_teachers(student: Path, shrunk: list[str], video: Path, tmp_path: Path) -> None:
    alone, taught = tmp_path / "alone", tmp_path / "taught"
    assert visualize(student.parent, video, "--output", alone) == 0
    given = [part for name, folder in teachers_of(shrunk).items() for part in ("--teacher", f"{name}={folder}")]
    assert visualize(student, video, "--output", taught, *given) == 0
    low, high = (np.asarray(Image.open(folder / f"{video.stem}.png")) for folder in (alone, taught))
    assert high.shape[0] - low.shape[0] > 6 * 112, "a loss and the features of each teacher, and their layers"
    assert read_json(alone / f"{video.stem}.json")["similarity"].keys() == {"student"}
    assert read_json(taught / f"{video.stem}.json")["similarity"].keys() == {"image", "video", "student"}


@pytest.mark.parametrize("name", ["image", "video"])
@pytest.mark.parametrize("format", ["gif", "mp4"])
def test_stage_one_moves(name: str, format: str, shrunk: list[str], video: Path, tmp_path: Path) -> None:
    assert visualize(teachers_of(shrunk)[name], video, video, "--format", format, "--output", tmp_path, "--cell", 32) == 0
    slots = 8 if name == "image" else 4
    for stem in (video.stem, f"{video.stem}-2"):
        path = tmp_path / f"{stem}.{format}"
        if format == "gif":
            assert Image.open(path).n_frames == slots
        else:
            with av.open(str(path)) as container:
                assert sum(1 for _ in container.decode(video=0)) == 3 * slots
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"


def test_a_classifier_has_features_and_attention(video: Path, tmp_path: Path) -> None:
    clip = {"frames": 8, "size_px": 32}
    network = mvd_ds.build_classifier({"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8}, 3, **clip)
    card = ClassifierCard(("a", "b", "c"), PreprocessingSettings(clip=ClipSettings(**clip, stride_frames=1)))
    save_classifier(tmp_path / "classifier", network, network.state_dict(), card, {})
    assert visualize(tmp_path / "classifier", video, "--heads", 1, "--output", tmp_path / "out") == 0
    assert len(read_json(tmp_path / "out" / f"{video.stem}.json")["similarity"]["encoder"]) == 2


def test_faults_are_one_line_and_other_videos_are_shown(
    student: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    out = tmp_path / "out"
    cases = {
        "broken.mp4: cannot be read": (student, broken, video, "--output", out),
        "--teacher audio: its teachers are image, video": (student, video, "--teacher", f"audio={student}"),
        "it takes NAME=FOLDER": (student, video, "--teacher", "image"),
        "is not there": (student, video, "--teacher", f"image={tmp_path / 'none'}"),
        "--heads 7: the last layer has 2, 0 to 1": (student, video, "--heads", 7),
        str(tmp_path / "none"): (tmp_path / "none", video),
    }
    for wanted, arguments in cases.items():
        assert visualize(*arguments) == 2, arguments
        told = capsys.readouterr().err
        assert wanted in told and told.count("\n") == 1, told
    assert (out / f"{video.stem}.png").is_file()
