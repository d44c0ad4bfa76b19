"""A rank that trains nothing, for the tests of what watches over ranks: python watched_rank.py FOLDER RANK WORLD DOES.

DOES is works, hangs (after ten steps) or obeys (ends with 75 when it is asked to stop).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mvd_ds.training.ending import record_with
from mvd_ds.training.liveness import launcher
from mvd_ds.training.liveness.heartbeat import Heartbeat, read_beats
from mvd_ds.training.liveness.rank_log import RankLog
from mvd_ds.training.liveness.stop import StopRequests
from mvd_ds.training.liveness.watchdog import Watchdog
from mvd_ds.training.run_folder import PREEMPTED, RunFolder


def main(path: str, rank: int, world: int, does: str) -> int:
    launcher.GRACE_SECONDS = 2.0
    folder = RunFolder(Path(path))
    heartbeat = Heartbeat(folder, rank, 1)
    heartbeat.write()
    while len(beats := read_beats(folder)) < world:
        time.sleep(0.01)
    log = RankLog(folder.logs(1), rank, limit_mib=1)
    log.open()
    peers = [beat.process for beat in beats]
    record_with(lambda reason, speaks: heartbeat.end(reason))
    watchdog = Watchdog(folder, peers, heartbeat, log, timeout_seconds=3.0, heartbeat_seconds=0.5, chores=[])
    with StopRequests() as stop, launcher.LauncherWatch(stop, speaks=rank == 0):
        watchdog.start()
        step = 0
        while not (does == "obeys" and stop.reason):
            if does != "hangs" or step < 10:
                step += 1
                heartbeat.at("computing", step)
            time.sleep(0.05)
    print(f"asked to stop: {stop.reason}", file=sys.stderr)
    return PREEMPTED


if __name__ == "__main__":
    folder, rank, world, does = sys.argv[1:]
    sys.exit(main(folder, int(rank), int(world), does))
