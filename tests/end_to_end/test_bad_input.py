"""What a user can get wrong is answered by one clear line, a non-zero exit code, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from launching import launch
from mvd_ds.cli import main
from shrinking import RECIPE
from video_files import write_video


def fault(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command line answers with."""
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("masking.ratoi=0.5", ["masking.ratoi", "did you mean 'ratio'"]),
        ("masking.ratio=1.5", ["masking.ratio 1.5", "less than 1"]),
        ("teachers.image.patch_px=14", ["grid (8, 16, 16)", "input_px 196", "resize: bilinear"]),
        ("batch.micro=7", ["512", "7"]),
        ("data.clip.frames=15", ["15 frames", "tubelet_frames 2"]),
        ("teachers.video.wieght=2", ["did you mean 'weight'"]),
        ("model.size=hugee", ["hugee", "tiny, small, base, large, huge"]),
        ("nonsense", ["nonsense", "key.path=value"]),
    ],
)
def test_settings(override: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = fault(capsys, "distill", RECIPE, override)
    assert all(word in line for word in words), line


def test_recipe_names_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'quickstart_distill'" in fault(capsys, "distill", "quickstart_distil")
    assert "is for `pretrain`" in fault(capsys, "distill", "quickstart_image")


def test_224_by_16_fits_196_by_14(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published pair of grids: validation passes, and the missing manifest is what is complained about."""
    line = fault(
        capsys, "distill", "mvd_huge_from_huge", f"data.manifest={tmp_path / 'no.txt'}", f"run.output={tmp_path / 'run'}"
    )
    assert "no.txt" in line and "no such manifest" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["list.txt", "empty"]),
        ("# only a comment\n", ["list.txt", "empty"]),
        ("a.mp4 1\nb.mp4 x\n", ["list.txt:2"]),
        ("a.mp4 1\nb.mp4 1 2\n", ["list.txt:2", "2 labels"]),
        ("gone.mp4 1\n", ["gone.mp4", "data.root"]),
    ],
)
def test_manifests(text: str, words: list[str], shrunk: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text(text)
    line = fault(capsys, "distill", RECIPE, *shrunk, f"data.manifest={tmp_path / 'list.txt'}", f"run.output={tmp_path / 'run'}")
    assert all(word in line for word in words), line


def test_fewer_clips_than_a_batch(shrunk: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "one.mp4")
    line = fault(capsys, "distill", RECIPE, *shrunk, f"data.manifest={tmp_path}", f"run.output={tmp_path / 'run'}")
    assert "fewer than batch.global 8" in line


@pytest.mark.launch
def test_all_ranks_stop_together_and_one_speaks(shrunk: list[str], tmp_path: Path) -> None:
    """A teacher whose weights do not fit: found while building, before any collective of the engine."""
    command = ["distill", RECIPE, *shrunk, f"run.output={tmp_path}", "teachers.video.weights=/nowhere"]
    done = launch(2, *command, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert "Traceback" not in done.stdout
    assert len(lines) == 1 and "teachers.video.weights" in lines[0] and "/nowhere" in lines[0], lines
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "model").exists()


@pytest.mark.launch
def test_too_many_broken_videos_end_the_run_in_one_line(videos: Path, shrunk: list[str], tmp_path: Path) -> None:
    """Four of 64 files broken, and next to none allowed. What happens to those that are allowed: test_broken_files."""
    sound = [line for line in (videos / "train.txt").read_text().splitlines() if not line.startswith("#")]
    listed = [f"{videos / line.split()[0]} {' '.join(line.split()[1:])}" for line in sound]
    for number, content in enumerate([b"", b"not a video", (videos / sound[0].split()[0]).read_bytes()[:300]]):
        (tmp_path / f"broken{number}.mp4").write_bytes(content)
        listed[number] = f"{tmp_path}/broken{number}.mp4 0 0"
    listed[3] = f"{tmp_path}/missing.mp4 0 0"
    manifest = tmp_path / "list.txt"
    manifest.write_text("\n".join(listed) + "\n")
    command = ["distill", RECIPE, *shrunk, f"data.manifest={manifest}", "schedule.steps=8", "schedule.warmup_steps=1"]
    done = launch(2, *command, f"run.output={tmp_path / 'strict'}", "data.max_bad_share=0.001", check=False)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "data.max_bad_share 0.001" in line], done.stderr
    assert not (tmp_path / "strict" / "checkpoints").exists()
