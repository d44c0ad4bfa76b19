"""A hundred kills: ``python -m soak.hundred_kills FOLDER [--kills 100] [--minutes 40] [--publish]``, with . and tests on the
PYTHONPATH; or ``MVD_DS_SOAK_FOLDER=FOLDER bash launchers/test.sh --nightly tests/soak``. Run again, it goes on.

Runs of thirty steps are started, killed and resumed until the plan is done: 30 kills inside a save, 10 inside a resume, 10 on
the launcher, its command or the whole group, 20 on rank 0 and 30 on any rank, at any moment. After each, everything of the run
must be gone in bounded time, the newest checkpoint must be whole, and the next start must take it; every run that comes
to its end must have the losses and the weights of an untouched one, bit by bit. A broken promise ends the soak.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from safetensors.torch import load_file

from mvd_ds.data.synthetic.writer import write_sample_set
from mvd_ds.files import read_json, write_json
from mvd_ds.training.reporting.provenance import machine, versions
from shrinking import RECIPE, shrink, write_teachers
from soak.kills import Life, check, kill, resumed_step, saved_step, trace

HERE = Path(__file__).resolve().parent
SHARES = {"save": 0.3, "resume": 0.1, "launcher": 0.03, "command": 0.03, "group": 0.04, "rank 0": 0.2, "any": 0.3}
STEPS, PROCESSES = 30, 2


class Soak:
    """The state of a soak, in ``FOLDER/soak.json``."""

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.folder, self.path, self.seed = folder, folder / "soak.json", seed
        self.plan = _plan(kills, seed)
        self.values: dict[str, Any] = {"run": 0, "runs_compared": 0, "missed": 0, "kills": []}
        if self.path.exists():
            self.values = read_json(self.path)

    @property
    def left(self) -> list[str]:
        """Kinds of kills that are still to be done, in their order."""
        missing = Counter(self.plan) - Counter(found["kind"] for found in self.values["kills"])
        left = []
        for kind in reversed(self.plan):
            if missing[kind]:
                missing[kind] -= 1
                left.append(kind)
        return left[::-1]

    @property
    def run(self) -> Path:
        return self.folder / f"run-{self.values['run']:03}"

    def prepare(self) -> list[str]:
        """Videos, teachers and the untouched run; arguments of every start."""
        overrides = shrink(self.folder / "videos", self.folder / "teachers")
        if not (self.folder / "videos" / "train.txt").exists():
            write_sample_set(self.folder / "videos", train_clips=64, validation_clips=4, seed=1, size_px=48, frames=16)
            write_teachers(overrides, self.folder / "teachers")
        settings = [f"schedule.steps={STEPS}", "data.workers=1", "run.save_every_steps=1", "optimizer.ema_decay=0.9"]
        arguments = ["distill", RECIPE, *overrides, *settings]
        if not (self.folder / "untouched" / "model").exists():
            shutil.rmtree(self.folder / "untouched", ignore_errors=True)
            with Life(self.folder / "untouched", PROCESSES, arguments) as life:
                assert life.finish() == 0, life.said()
        return arguments

    def once(self, arguments: list[str], chance: random.Random) -> None:
        """One start and, if its moment comes, one kill."""
        before = saved_step(self.run)
        kinds = [kind for kind in self.left if kind != "resume" or before]
        with Life(self.run, PROCESSES, arguments) as life:
            found = kill(life, kinds[0], chance) if kinds else None
            if found is None:
                assert life.finish() == 0, life.said()
                self._compare(life, before)
                return
        check(found)
        self.values["kills"].append(found._asdict())
        self.save()
        print(f"{len(self.values['kills'])}/{len(self.plan)} {found}", flush=True)

    def _compare(self, life: Life, before: int) -> None:
        """Hold a run at its end against the untouched one, and begin the next."""
        self.values["missed"] += bool(self.left)
        if saved_step(self.run) == STEPS:
            assert resumed_step(life) == before or "is finished; nothing to do" in life.said()
            assert trace(self.run) == trace(self.folder / "untouched"), f"{self.run} has other losses than the untouched run"
            weights, expected = (_weights(path) for path in (self.run, self.folder / "untouched"))
            assert weights.keys() == expected.keys() and all((weights[name] == expected[name]).all() for name in weights)
            self.values["runs_compared"] += 1
            shutil.rmtree(self.run)
            self.values["run"] += 1
        self.save()

    def save(self) -> None:
        write_json(self.path, self.values)

    def publish(self, folder: Path) -> None:
        """``results.json`` and ``histogram.png``, with the commit."""
        kills = self.values["kills"]
        places = Counter((found["kind"], found["doing"]) for found in kills)
        seconds = sorted(found["end_seconds"] for found in kills)
        write_json(
            folder / "results.json",
            {
                "versions": versions(),
                "machine": machine(),
                "kills": dict(Counter(found["kind"] for found in kills)),
                "inside": {f"{kind}: {doing}": count for (kind, doing), count in sorted(places.items())},
                "runs_compared_bit_by_bit": self.values["runs_compared"],
                "resumes": sum(bool(found["resumed"]) for found in kills),
                "steps_lost_beyond_the_last_checkpoint": sum(
                    found["saved_before"] - found["resumed"] for found in kills if found["resumed"] is not None
                ),
                "damaged_checkpoints_met": sum(found["passed_over"] for found in kills),
                "seconds_until_all_is_gone": {"median": seconds[len(seconds) // 2], "largest": seconds[-1]},
                "seed": self.seed,
                "each": kills,
            },
        )
        _histogram(kills).savefig(folder / "histogram.png", dpi=100)


def _plan(kills: int, seed: int) -> list[str]:
    counts = {kind: max(round(share * kills), 1) for kind, share in SHARES.items()}
    plan = [kind for kind, count in counts.items() for _ in range(count)]
    random.Random(seed).shuffle(plan)
    return plan


def _weights(run: Path) -> dict[str, Any]:
    return load_file(run / "model" / "model.safetensors")


def _histogram(kills: list[dict[str, Any]]) -> Figure:
    """Kills by what the victim (or rank 0) was doing, and by the seconds until everything of the run was gone."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    places, times = figure.subplots(1, 2)
    doing = [name for name, _ in Counter(found["doing"] for found in kills).most_common()]
    ends = [found["end_seconds"] for found in kills]
    bins = [i / 2 for i in range(int(2 * max(ends)) + 3)]
    colours = colormaps["tab10"]
    before, stacked = [0] * len(doing), []
    for number, kind in enumerate(SHARES):
        counts = [sum(found["kind"] == kind and found["doing"] == name for found in kills) for name in doing]
        places.barh(doing, counts, left=before, color=colours(number), label=kind)
        before = [a + b for a, b in zip(before, counts, strict=True)]
        stacked.append([found["end_seconds"] for found in kills if found["kind"] == kind])
    places.invert_yaxis()
    places.set(xlabel="kills", title="what the victim was doing", xlim=(0, 1.1 * max(before)))
    for row, count in enumerate(before):
        places.annotate(str(count), (count, row), xytext=(3, 0), textcoords="offset points", va="center")
    times.hist(stacked, bins=bins, stacked=True, color=[colours(number) for number in range(len(SHARES))])
    times.set(xlabel="seconds from the kill until nothing of the run was left", ylabel="kills", title="how long the end takes")
    times.yaxis.get_major_locator().set_params(integer=True)
    for axes in (places, times):
        axes.spines[["top", "right"]].set_visible(False)
    places.legend(title="aim", fontsize="small", loc="lower right")
    return figure


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; the same command goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--publish", action="store_true", help="write results.json and histogram.png beside this script")
    options = parser.parse_args()
    soak, began = Soak(options.folder.resolve(), options.kills, options.seed), time.monotonic()
    arguments = soak.prepare()
    # What follows a resumption is drawn anew, but reproducibly.
    chance = random.Random(f"{options.seed} {len(soak.values['kills'])} {soak.values['missed']}")
    while soak.left or soak.run.exists():
        if time.monotonic() - began > 60 * options.minutes:
            print(f"{len(soak.left)} kills are left; the same command goes on")
            return 75
        soak.once(arguments, chance)
    soak.publish(HERE if options.publish else soak.folder)
    print(f"{len(soak.values['kills'])} kills, {soak.values['runs_compared']} runs equal to the untouched one bit by bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
