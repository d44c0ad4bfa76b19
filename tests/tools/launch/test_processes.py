"""Every process of a launch is found and ended, whoever its parent is; and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvd_ds.tools.launch import processes

ROOT = Path(__file__).resolve().parents[3]
#: A parent that starts a child which ignores SIGTERM, and leaves it to init.
ORPHAN = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


def start(launch: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {processes.MARK: launch}
    return subprocess.Popen([sys.executable, "-c", *arguments], env=environment, stdout=subprocess.PIPE, text=True)


def test_an_orphan_that_ignores_sigterm_is_ended_and_a_stranger_lives() -> None:
    stranger = start("another", STUBBORN)
    parent = start("one", ORPHAN, STUBBORN)
    assert parent.stdout is not None and parent.stdout.readline() == "up\n"
    assert parent.wait() == 0 and len(processes.marked("one")) == 1
    assert processes.end("one", grace_seconds=0.3) == 1
    assert processes.marked("one") == []
    assert len(processes.marked("another")) == 1
    stranger.kill()
    stranger.wait()


def test_ending_nothing_takes_no_time() -> None:
    began = time.monotonic()
    assert processes.end("nobody", grace_seconds=30) == 0
    assert time.monotonic() - began < 10


GUARDED = """
import os, subprocess, sys, time
from mvd_ds.tools.launch import processes
from mvd_ds.tools.launch.guard import Guard
with Guard(lambda: processes.end("guarded", 1.0)):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=os.environ | {processes.MARK: "guarded"})
    print(child.pid, flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("killed", [True, False])
def test_the_guard_ends_what_a_killed_supervisor_leaves_and_only_then(killed: bool) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", GUARDED, "600" if killed else "0"]
    supervisor = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert supervisor.stdout is not None
    child = int(supervisor.stdout.readline())
    if killed:
        supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    left = processes.wait_until_gone("guarded", 10.0 if killed else 0.5)
    assert [process.pid for process in left] == ([] if killed else [child])
    processes.end("guarded", 0.1)
