"""Workers start whatever ``TMPDIR`` is: the path of a socket holds 107 bytes."""

from __future__ import annotations

import os
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
