"""The log of a rank keeps its output, whichever way it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvd_ds.training.liveness.rank_log import RankLog, Tee

ROOT = Path(__file__).resolve().parents[3]
TALK = """
import faulthandler, logging, os, sys
from pathlib import Path
logging.basicConfig(format="%(message)s", stream=sys.stdout)
from mvd_ds.training.ending import log_error
from mvd_ds.training.liveness.rank_log import RankLog
log = RankLog(Path(sys.argv[1]), int(sys.argv[2]), 1)
log.open()
print("said"); print("complained", file=sys.stderr); logging.warning("warned")
os.system("echo a child said")
log_error("everyone must know")
log.file.flush()
log.close()
print("afterwards")
"""


def talk(folder: Path, rank: int) -> tuple[str, str]:
    """Return what reaches the terminal, and the log."""
    done = subprocess.run(
        [sys.executable, "-c", TALK, str(folder), str(rank)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr, (folder / f"rank-{rank}.log").read_text()


def test_rank_0_speaks_on_the_terminal_and_in_its_log(tmp_path: Path) -> None:
    terminal, log = talk(tmp_path, 0)
    for word in ("said", "complained", "warned", "mvd_ds: everyone must know"):
        assert word in terminal and word in log
    assert "afterwards" in terminal and "afterwards" not in log


def test_other_ranks_speak_in_their_logs_and_cry_on_the_terminal(tmp_path: Path) -> None:
    terminal, log = talk(tmp_path, 3)
    for word in ("said", "complained", "warned", "a child said"):
        assert word not in terminal and word in log, word
    assert terminal.splitlines() == ["afterwards", "mvd_ds: everyone must know"] and "mvd_ds: everyone must know" in log


def test_a_rank_that_speaks_for_a_student_is_heard_and_has_no_display(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mvd_ds.training.liveness.rank_log import RankLog\n"
        f"log = RankLog(Path({str(tmp_path)!r}), 2, 1); log.open()\n"
        "print('before'); log.speak(); log.speak(); print('a step'); print(sys.stdout.isatty(), file=sys.stderr)\n"
        "log.close(); print('afterwards')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["a step", "afterwards"] and done.stderr == ""
    assert sorted((tmp_path / "rank-2.log").read_text().split()) == ["False", "a", "before", "step"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_log_that_grew_too_large_is_moved_aside_and_nothing_is_lost(rank: int, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mvd_ds.training.liveness.rank_log import RankLog\n"
        f"log = RankLog(Path({str(tmp_path)!r}), {rank}, 1); log.open()\n"
        "for line in range(60000):\n    print(f'{line:050}')\n    line % 1000 or log.rotate()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    now, earlier = tmp_path / f"rank-{rank}.log", tmp_path / f"rank-{rank}.log.1"
    lines = earlier.read_text().splitlines() + now.read_text().splitlines()
    assert earlier.stat().st_size < 1.2 * 2**20 and [int(line) for line in lines] == list(range(60000 - len(lines), 60000))


def test_a_terminal_that_goes_away_and_its_live_display_are_not_the_logs(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", buffering=1) as gone, open(tmp_path / "log", "w", buffering=1) as log:
        tee = Tee(gone, log)
        tee.write("a line\n")
        tee.flush()
        tee.write("\x1b[2Kprogress")
        assert (tmp_path / "log").read_text() == "a line\n" and not tee.isatty()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


def test_nothing_is_left_redirected(tmp_path: Path) -> None:
    before = sys.stdout, sys.stderr
    log = RankLog(tmp_path, 0, 1)
    log.open()
    log.write_stacks("because")
    log.close()
    assert (sys.stdout, sys.stderr) == before
    assert "--- because" in log.stack_path.read_text() and "test_nothing_is_left_redirected" in log.stack_path.read_text()
