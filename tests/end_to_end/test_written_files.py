"""A training writes into its run's folder and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shrinking import RECIPE

pytestmark = pytest.mark.launch

ROOT = Path(__file__).resolve().parents[2]
#: Runs in every Python process of the run, and notes what is opened for writing, made, moved or removed.
AUDIT = """
import os, sys
def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if not isinstance(path, (str, bytes)) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        path = arguments[0]
        if arguments[-1] != -1 and event != "os.truncate":
            return  # beside an open folder, which was noted when it was made
    elif event in ("os.rename", "os.link", "os.symlink"):
        path = arguments[1]
    else:
        return
    line = (os.path.abspath(os.fsdecode(path)) + "\\n").encode()
    os.write(descriptor, line)
descriptor = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(hook)
"""


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below a folder."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_nothing_is_written_outside_the_runs_folder(shrunk: list[str], tmp_path: Path) -> None:
    home, scratch, here, run, site = (tmp_path / name for name in ("home", "scratch", "here", "run", "site"))
    for folder in (home, scratch, here, site):
        folder.mkdir()
    (site / "sitecustomize.py").write_text(AUDIT)
    settings = dict(item.split("=", 1) for item in shrunk if "=" in item)
    given = [Path(settings["data.manifest"]).parent, Path(settings["teachers.image.weights"]).parent]
    before = [files(folder) for folder in given]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    environment |= {
        "HOME": str(home),
        "TMPDIR": str(scratch),
        "PYTHONPATH": f"{site}:{ROOT}",
        "AUDIT_LOG": str(tmp_path / "audit"),
    }
    environment |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    overrides = [*shrunk, f"run.output={run}", "run.stop_after_steps=2", "run.save_every_steps=1", "data.workers=1"]
    command = [sys.executable, "-m", "mvd_ds", "distill", RECIPE, *overrides]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (run / "model").is_dir() and [files(folder) for folder in given] == before
    assert not list(here.iterdir()) and not list(home.iterdir()) and not list(scratch.iterdir())
    # Devices and shared memory hold nothing when the processes are gone; what was in the scratch folder is gone, too. torch
    # makes the folder of its compiler's cache, whether it compiles or not; the scratch folder may be too long for sockets.
    free = (f"{run}", f"{scratch}", "/dev/", "/proc/", "/tmp/torchinductor_", "/tmp/pymp-")
    written = set((tmp_path / "audit").read_text().splitlines())
    assert any(path.startswith(f"{run}/checkpoints") for path in written)
    assert not sorted(path for path in written if not path.startswith(free) and path != str(tmp_path / "audit"))
