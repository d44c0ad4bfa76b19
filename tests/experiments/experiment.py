"""Run an experiment that was written down before: ``python -m experiments.experiment NAME [--output DIR]``, in tests/.

A protocol is ``NAME.yaml`` beside this file. Its ``shared`` runs are made once, with the first seed, and are those of every
experiment in the same folder; its ``rows`` are made once for every seed; then linear probes on what moves and how are trained on
all rows and on a network that was never trained. Values of settings may name the model folder of a shared run in braces. The same
command goes on where it was; the result is ``NAME.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from launching import ROOT, alone
from mvd_ds.config import dump, load_recipe
from mvd_ds.files import write_json
from mvd_ds.training.reporting.provenance import machine, versions

HERE = Path(__file__).resolve().parent
HOURS_4 = 4 * 3600


class Run(BaseModel):
    """A training of an experiment: a recipe of the package and the settings in which it differs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    settings: list[str] = []

    @property
    def command(self) -> str:
        """The command that runs the recipe."""
        return load_recipe(self.recipe).command


class Protocol(BaseModel):
    """Everything that is fixed before an experiment is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    analysis: str
    seeds: list[int]
    videos: list[str]
    """Options of ``synthesize`` for the sample set."""
    shared: dict[str, Run] = {}
    """Runs that all rows share, such as teachers, in their order."""
    settings: list[str] = []
    """Settings of every row."""
    rows: dict[str, Run]
    compare: list[tuple[str, str]]
    """Pairs of rows, or a row and ``untrained``, whose difference is wanted."""
    probe: str = "demo_probe"
    words: dict[str, str] = {}
    """Label -> file of words beside the videos, for a zero-shot test of every row by its own text tower."""


def read_protocol(name: str) -> Protocol:
    """Return the protocol ``NAME.yaml``."""
    return Protocol.model_validate(yaml.safe_load((HERE / f"{name}.yaml").read_text()))


class Experiment:
    """The runs of a protocol in one folder."""

    def __init__(self, protocol: Protocol, folder: Path) -> None:
        self.protocol, self.folder = protocol, folder
        self.shared = folder.parent / "shared"
        self.videos = self.shared / "videos"

    def run(self) -> dict[str, Any]:
        """Make everything that is not there yet, and return the pooled result of the probes."""
        if not (self.videos / "val.txt").exists():
            self._say("synthesize", str(self.videos), *self.protocol.videos)
        places = {"videos": str(self.videos)}
        for name, run in self.protocol.shared.items():
            places[name] = self._train(run, self.shared / name, self.protocol.seeds[0], [], places)
        probes, zero_shot = [], {name: {label: [] for label in self.protocol.words} for name in self.protocol.rows}
        for seed in self.protocol.seeds:
            base = self.folder / f"seed-{seed}"
            rows = {
                name: self._train(run, base / name, seed, self.protocol.settings, places)
                for name, run in self.protocol.rows.items()
            }
            probes.append(self._probe(base, seed, rows))
            for name, weights in rows.items():
                for label, words in self.protocol.words.items():
                    zero_shot[name][label].append(self._zero_shot(weights, label, words, base / f"{name}-{label}"))
        self._say("report", *probes, "--output", str(self.folder))
        report = json.loads((self.folder / "report.json").read_text())
        return {**report, "zero_shot": zero_shot} if self.protocol.words else report

    def _zero_shot(self, weights: str, label: str, words: str, output: Path) -> dict[str, Any]:
        """Return top-1 by words on held-out clips, and retrieval by their captions."""
        data = [f"data.manifest={self.videos / 'val.jsonl'}", f"words={self.videos / words}", f"label={label}"]
        views = ["views={segments: 1, crops: 1}", f"run.output={output}"]
        self._say("evaluate", "evaluate_2x3", f"weights={weights}", *data, *views)
        found = json.loads((output / "evaluation.json").read_text())
        return {key: found[key] for key in ("top1", "samples", "retrieval")}

    def _train(self, run: Run, output: Path, seed: int, settings: list[str], places: dict[str, str]) -> str:
        """Return the model folder of a run, which is trained unless it is finished."""
        given = [setting.format(**places) for setting in [*settings, *run.settings]]
        data = [f"data.manifest={self.videos / 'train.txt'}", f"run.output={output}", f"run.seed={seed}"]
        self._say(run.command, run.recipe, *data, *given)
        return str(output / "model")

    def _probe(self, base: Path, seed: int, rows: dict[str, str]) -> str:
        """Return the folder of the linear probes of one seed, which are trained unless they are finished."""
        output = base / "probe"
        recipe = dump(load_recipe(self.protocol.probe))
        recipe["run"] |= {"output": str(output), "seed": seed}
        recipe["data"]["manifest"] = str(self.videos / "train.txt")
        recipe["validation_manifest"] = str(self.videos / "val.txt")
        untrained = {"weights": next(iter(rows.values())), "untrained": True}
        recipe["models"] = {name: {"weights": weights} for name, weights in rows.items()} | {"untrained": untrained}
        recipe["compare"] = [list(pair) for pair in self.protocol.compare]
        written = base / "probe.yaml"
        written.write_text(yaml.safe_dump(recipe, sort_keys=False))
        self._say("probe", str(written))
        return str(output)

    def _say(self, *command: str) -> None:
        print("mvd_ds", *command, flush=True)
        print(alone(*command, timeout=HOURS_4).stdout[-400:], flush=True)


def summary(protocol: Protocol, report: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a result: shares with intervals, differences, and where it was made."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept = ("probes", "intervals", "comparisons", "chance", "clips", "trainings", "zero_shot")
    return {key: report[key] for key in kept if key in report} | {
        "per_seed": {
            name: {label: one["per_seed"] for label, one in labels.items()} for name, labels in report["details"].items()
        },
        "seeds": protocol.seeds,
        "commit": commit.stdout.strip(),
        "machine": machine(),
        "versions": versions(),
    }


def table(result: dict[str, Any]) -> str:
    """Return the Markdown table of a kept result, in percent."""
    labels = list(result["chance"])
    lines = [f"| top-1 in percent | {' | '.join(labels)} |", "|---" * (len(labels) + 1) + "|"]
    for name, shares in result["probes"].items():
        spans = result["intervals"][name]
        cells = (f"{100 * shares[key]:.1f} ({100 * spans[key][0]:.1f} to {100 * spans[key][1]:.1f})" for key in labels)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, differences in result["comparisons"].items():
        cells = (
            "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * differences[key][part] for part in ("difference", "low", "high")))
            for key in labels
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(path.stem for path in HERE.glob("*.yaml")))
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        help="folder of its runs, beside the shared ones (default: runs/experiments/NAME)",
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every row, for a trial; not kept")
    options = parser.parse_args()
    protocol = read_protocol(options.name)
    if options.set:
        protocol = protocol.model_copy(update={"settings": [*protocol.settings, *options.set]})
    output = options.output or ROOT / "runs" / "experiments" / options.name
    result = summary(protocol, Experiment(protocol, output.resolve()).run())
    write_json((output if options.set else HERE) / f"{options.name}.json", result)
    print(table(result))


if __name__ == "__main__":
    sys.exit(main())
