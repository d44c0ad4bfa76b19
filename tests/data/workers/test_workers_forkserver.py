"""Workers start whatever ``TMPDIR`` is: too long for a socket, whose path holds 107 bytes, or emptied during the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
START = """
import os
from multiprocessing import util
from mvd_ds.data.workers.workers import forkserver_context
worker = forkserver_context(()).Process(target=os.getpid)
worker.start()
worker.join()
print(worker.exitcode, util.get_temp_dir())
"""


@pytest.mark.parametrize("length", [75, 76, 150])
def test_sockets_lie_in_tmpdir_as_long_as_it_is_short(length: int, tmp_path: Path) -> None:
    # Below /tmp, since pytest's own folder may be longer than that already.
    link = Path("/tmp") / f"mvd_ds-{os.getpid()}-{length}".ljust(length - len("/tmp/"), "x")
    link.symlink_to(tmp_path)
    try:
        done = subprocess.run(
            [sys.executable, "-c", START], cwd=ROOT, env={**os.environ, "TMPDIR": str(link)}, capture_output=True, text=True
        )
    finally:
        link.unlink()
    assert done.returncode == 0, done.stderr
    code, folder = done.stdout.split()
    assert code == "0" and Path(folder).parent == (link if length <= 75 else Path("/tmp"))
    assert not Path(folder).exists() and not list(tmp_path.iterdir())


EMPTIED = """
import os, shutil, sys
from mvd_ds.data.workers.workers import start_server

def exit_code():
    process = start_server().Process(target=os.getpid)
    process.start()
    process.join()
    return process.exitcode

if __name__ == "__main__":
    codes = [exit_code()]
    for removed in ([entry.path for entry in os.scandir(sys.argv[1])], [sys.argv[1]]):
        for path in removed:
            shutil.rmtree(path)
        codes += [exit_code(), exit_code()]
    print(codes)
"""


def test_workers_start_after_tmpdir_was_emptied_or_removed(tmp_path: Path) -> None:
    script, folder = tmp_path / "emptied.py", Path("/tmp") / f"mvd_ds-{os.getpid()}-emptied"
    script.write_text(EMPTIED)
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run([sys.executable, script, folder], env=environment, capture_output=True, text=True, timeout=120)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.stdout.strip() == "[0, 0, 0, 0, 0]", done.stderr[-2000:]
