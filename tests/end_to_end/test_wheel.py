"""The wheel carries everything: where there is no clone, its commands and the README's Python run in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mvd_ds
from launching import ROOT

SOURCES = ("mvd_ds", "ds_configs", "launchers", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because a build leaves files in its tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    done = subprocess.run([*build, str(folder / "source")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel alone; its dependencies are those of the tests' environment."""
    folder = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(folder), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def answer(installed: Path, cwd: Path, *arguments: str) -> str:
    """Standard output of the installed ``python ARGUMENTS`` in an empty folder."""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_wheel_holds_what_the_clone_holds(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("ds_configs", "launchers"):
        assert {f"mvd_ds/{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.is_file()} <= names
    sources = [path.relative_to(ROOT) for path in (ROOT / "mvd_ds").rglob("*.*") if "__pycache__" not in path.parts]
    assert {path.as_posix() for path in sources if (ROOT / path).is_file()} <= names
    assert {name.partition("/")[0] for name in names} == {"mvd_ds", f"mvd_ds-{mvd_ds.__version__}.dist-info"}


def test_commands_run_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    run = ["-m", "mvd_ds"]
    assert answer(installed, tmp_path, "-c", "import mvd_ds; print(mvd_ds.__file__)").startswith(str(installed))
    assert answer(installed, tmp_path, *run, "--version") == f"mvd_ds {mvd_ds.__version__}\n"
    assert "mvd_base_from_base" in answer(installed, tmp_path, *run, "recipes")
    plan = answer(installed, tmp_path, *run, "plan", "mvd_base_from_base", "--gpus", "8", "--gpu", "h200")
    assert "zero3.json" in plan and "clips/s" in plan
    assert "--videos" in answer(installed, tmp_path, *run, "quickstart", "--help")
    command = shlex.split(answer(installed, tmp_path, *run, "quickstart", "--dry-run", "schedule.steps=2"))
    assert Path(command[1]) == installed / "mvd_ds" / "launchers" / "quickstart.sh" and command[-1] == "schedule.steps=2"
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_the_quickstart_script_starts_here_with_this_python(installed: Path, tmp_path: Path) -> None:
    """Stop the script at its first command: a program `deepspeed` and `python` of ours note where they were called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").write_text('#!/bin/sh\n[ "$1" = - ] && exec echo cpu 1 1\necho "$PWD $*"; exit 7\n')
    (programs / "python").chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "MVD_DS_INSTALLED": "1"}
    script = installed / "mvd_ds" / "launchers" / "quickstart.sh"
    done = subprocess.run(["bash", str(script)], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 7 and f"{here} -m mvd_ds synthesize runs/quickstart/videos" in done.stdout
    assert not list(here.iterdir())


@pytest.mark.parametrize("page", [page for page in ("README.md", "mvd_ds/README.md") if (ROOT / page).exists()])
def test_the_readmes_python_runs(page: str, installed: Path, tmp_path: Path) -> None:
    """The blocks of a page run one after another, as in one session."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    if not blocks:
        pytest.skip("has no Python")
    answer(installed, tmp_path, "-c", "\n".join(blocks))
