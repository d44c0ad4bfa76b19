"""Workers that die: the file is named and set aside, and everybody else's clips are what they would have been."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from deadly_clips import DEADLY_FRAMES, HANG, DeadlyClips, hang_on_deadly_length
from mvd_ds.config import ConfigError
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.evaluation import batches_in_order
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.manifests.mixture import read_mixture
from video_files import recipe, write_video

ROOT = Path(__file__).resolve().parents[3]
STEPS = 9
"""Three epochs of twelve clips in steps of four."""


def _loader(manifest: Path, deadly: dict[int, int] | None = None, once: Path | None = None, **changes: Any) -> ClipLoader:
    settings = recipe(manifest, batch={"micro": 4, "global": 4}, **changes)
    clips = DeadlyClips(settings, read_mixture(settings.data), 3, deadly=deadly or {}, once=once)
    return ClipLoader(settings, 3, 0, 1, clips)


def _run(loader: ClipLoader, first: int = 0, last: int = STEPS, agree_every: int = 0) -> list[ClipBatch]:
    batches = []
    for step, batch in enumerate(loader.batches(first, last), first + 1):
        batches.append(batch)
        if agree_every and step % agree_every == 0:
            loader.agree(step, lambda mine: [mine])
    return batches


def _same_but_for(one: list[ClipBatch], other: list[ClipBatch], videos: set[int]) -> None:
    """Clips whose video was meant to be one of ``videos`` are others; all the rest is equal, bit by bit."""
    for left, right in zip(one, other, strict=True):
        for row, sample in enumerate(left.sample.tolist()):
            if sample in videos:
                assert right.sample[row].item() not in videos
                continue
            assert right.sample[row].item() == sample
            assert torch.equal(left.views[32][row], right.views[32][row])
        assert torch.equal(left.masked, right.masked) and torch.equal(left.place, right.place)


@pytest.mark.parametrize(("number", "words"), [(signal.SIGSEGV, "by SIGSEGV"), (signal.SIGKILL, "SIGKILL, as the kernel does")])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_video_that_kills_its_worker_is_replaced_and_named(twelve: Path, number: int, words: str, workers: int) -> None:
    loader = _loader(twelve, {5: number}, data__workers=workers)
    batches = _run(loader)
    _same_but_for(_run(_loader(twelve)), batches, {5})
    faults = [fault for batch in batches for fault in batch.faults]
    assert len(faults) >= 3 and set(faults) == {f"{twelve.parent / '05.mp4'}: {faults[0].split(': ')[1]}"}
    assert words in faults[0]
    assert {entry["path"] for entry in loader.state()["quarantine"]} == {str(twelve.parent / "05.mp4")}


def test_a_video_that_hangs_is_ended_and_named(twelve: Path) -> None:
    loader = _loader(twelve, {7: HANG}, data__workers=2, data__stall_seconds=1.5)
    batches = _run(loader, last=3)
    _same_but_for(_run(_loader(twelve), last=3), batches, {7})
    faults = {fault for batch in batches for fault in batch.faults}
    assert faults == {f"{twelve.parent / '07.mp4'}: gave no answer for data.stall_seconds 1.5"}


def test_once_agreed_nobody_tries_it_again_and_a_resumed_run_shows_the_same(twelve: Path, tmp_path: Path) -> None:
    """A single death, as by the kernel for want of memory: the file is good, but the stream is what it became."""
    once = tmp_path / "armed"
    once.touch()
    first = _loader(twelve, {2: signal.SIGKILL}, once, data__workers=2, data__prefetch_batches=1)
    batches, states = [], {}
    for step, batch in enumerate(first.batches(0, STEPS), 1):
        batches.append(batch)
        first.agree(step, lambda mine: [mine])
        states[step] = first.state()
    (entry,) = first.state()["quarantine"]
    assert entry["video"] == 2 and entry["from_step"] is not None
    steps = [step for step, batch in enumerate(batches) if 2 in batch.sample.tolist()]
    assert all(step < entry["from_step"] for step in steps) and entry["from_step"] <= 6
    known = next(step for step, state in states.items() if state["quarantine"])
    for resumed_at in (known, 6):
        second = _loader(twelve, {}, data__workers=1)
        second.restore(states[resumed_at])
        again = _run(second, resumed_at)
        for left, right in zip(batches[resumed_at:], again, strict=True):
            assert torch.equal(left.views[32], right.views[32]) and left.faults == right.faults


def test_files_that_end_every_worker_end_the_run_in_one_line(twelve: Path) -> None:
    loader = _loader(twelve, dict.fromkeys(range(12), signal.SIGKILL), data__workers=1)
    with pytest.raises(ConfigError, match=r"5 loader processes in a row died at the same clips.*\d\d.mp4. Memory") as caught:
        _run(loader)
    assert "\n" not in str(caught.value)


def test_a_worker_killed_between_two_files_costs_nothing(twelve: Path) -> None:
    loader = _loader(twelve, data__workers=2)
    others = set(multiprocessing.active_children())
    batches = loader.batches(0, 300)
    seen = [next(batches)]
    for worker in set(multiprocessing.active_children()) - others:
        worker.join(0.3)  # by now both wait for orders
        worker.kill()
    seen += [next(batches) for _ in range(20)]
    loader.close()
    _same_but_for(_run(_loader(twelve), last=21), seen, set())
    assert not any(batch.faults for batch in seen) and not loader.state()["quarantine"]


def test_evaluation_marks_a_video_that_hangs(twelve: Path, tmp_path: Path) -> None:
    shutil.copytree(twelve.parent, tmp_path / "copy")
    write_video(tmp_path / "copy" / "03.mp4", frames=DEADLY_FRAMES)
    data = recipe(tmp_path / "copy" / "train.txt", data__workers=2, data__stall_seconds=1.0).data
    groups = [range(first, min(first + 5, 12)) for first in range(0, 12, 5)]
    batches = list(batches_in_order(data, read_manifest(data.manifest), groups, (3, 1, 32, 32), hang_on_deadly_length))
    assert torch.cat([batch.arrays["ok"] for batch in batches]).tolist() == [number != 3 for number in range(12)]
    faults = [fault for batch in batches for fault in batch.faults]
    assert faults == [f"{tmp_path / 'copy' / '03.mp4'}: gave no answer for data.stall_seconds 1"]


def test_workers_end_with_the_training_process_even_when_they_are_stuck(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.mp4").touch()
    code = f"""
import sys, multiprocessing, threading, time
from pathlib import Path
from deadly_clips import HANG, DeadlyClips
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.mixture import read_mixture
from video_files import recipe
settings = recipe(Path({str(tmp_path)!r}), data__workers=2)
clips = DeadlyClips(settings, read_mixture(settings.data), 3, deadly=dict.fromkeys(range(8), HANG))
loader = ClipLoader(settings, 3, 0, 1, clips)
threading.Thread(target=lambda: next(loader.batches(0, 1)), daemon=True).start()
while len(multiprocessing.active_children()) < 2: time.sleep(0.1)
time.sleep(1)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        workers = [int(number) for number in process.stdout.readline().split()]
        assert len(workers) == 2 and all(psutil.pid_exists(worker) for worker in workers)
        process.kill()
    left = [psutil.Process(worker) for worker in workers if psutil.pid_exists(worker)]
    assert not psutil.wait_procs(left, timeout=10)[1]


SERVER = """
import os, signal, time
from multiprocessing import forkserver
from mvd_ds.data.workers.workers import STOP_SIGNALS, start_server

if __name__ == "__main__":
    context = start_server()
    for number in STOP_SIGNALS:
        os.kill(forkserver._forkserver._forkserver_pid, number)
    process = context.Process(target=os.getpid)
    process.start()
    process.join()
    print(process.exitcode)
"""


def test_the_server_is_deaf_to_what_stops_a_job_from_its_first_moment(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0", done.stderr[-2000:]
