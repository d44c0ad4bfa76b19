"""The files of a finished dense probe: ``dense.json``, ``dense.npz`` and ``predictions.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvd_ds.config import ConfigError, ProbeRecipe
from mvd_ds.evaluation.csv_files import csv_text
from mvd_ds.evaluation.dense_scores import difference, guessed, measure, per_seed
from mvd_ds.files import written_aside
from mvd_ds.runs.dense.fitting import Key, Readout
from mvd_ds.runs.dense.measuring import Measured, chosen_blocks
from mvd_ds.runs.dense.sources import PIXELS, Source, Target
from mvd_ds.runs.probing.clips import Split
from mvd_ds.runs.probing.encoders import ProbedEncoder
from mvd_ds.runs.probing.probe_results import described
from mvd_ds.training.console import say

PRODUCT = "dense.json"
#: Sums of every held-out video, float64 (seeds, videos, ...) as ``RESULT/TARGET``, from which ``report`` pools several seeds.
SUMS = "dense.npz"


def all_sums(recipe: ProbeRecipe, sources: Sequence[Source], readouts: Mapping[Key, Readout], measured: Measured) -> Measured:
    """Return the sums with those of every network's chosen blocks before those of its blocks, where several were read."""
    found: dict[Key, np.ndarray] = {}
    for source in sources:
        targets = [target for block, target in readouts if block == source.blocks[0]]
        for target in targets:
            blocks = chosen_blocks(source, target, readouts, len(recipe.seeds))
            rows = [measured.sums[block, target][seed] for seed, block in enumerate(blocks)]
            found[source.name, target] = np.stack(rows)
    return measured._replace(sums=found | measured.sums)


def write_sums(path: Path, measured: Measured) -> None:
    """Write the sums of every video.

    Raises:
        ConfigError: if the file cannot be written.
    """
    try:
        with written_aside(path) as aside, aside.open("wb") as file:
            tables = {f"{name}/{target}": sums for (name, target), sums in measured.sums.items()}
            np.savez_compressed(file, videos=np.array(measured.videos), **tables)  # type: ignore[arg-type]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


def predictions_text(recipe: ProbeRecipe, targets: Sequence[Target], split: Split, measured: Measured) -> str:
    """Return ``predictions.csv``: how far every result and seed was off on every held-out video."""
    rows: list[list[object]] = [["path", "target", "probe", "seed", "places", "mean_absolute_error", "share_right"]]
    kinds = {target.name: target.classes is not None for target in targets}
    for (name, target), sums in measured.sums.items():
        for seed, of_seed in zip(recipe.seeds, sums, strict=True):
            for video, own in zip(measured.videos, of_seed, strict=True):
                places = own.sum() if kinds[target] else own[0, 0]
                share = np.trace(own) / max(places, 1) if kinds[target] else (own[4] / max(places, 1)).mean()
                cells = ["", f"{share:.6f}"] if kinds[target] else [f"{share:.6f}", ""]
                rows.append([split[0].refs.path(video), target, name, seed, round(places), *cells])
    return csv_text(rows)


def results(
    recipe: ProbeRecipe,
    sources: Sequence[Source],
    encoders: Mapping[str, ProbedEncoder],
    targets: Sequence[Target],
    readouts: Mapping[Key, Readout],
    measured: Measured,
    fitted_on: int,
) -> dict[str, Any]:
    """Return the content of ``dense.json``, of sums that ``all_sums`` completed.

    Raises:
        ConfigError: if a comparison names a block that was not read.
    """
    kinds, draws = {target.name: target.classes is not None for target in targets}, recipe.bootstrap_draws
    scores: dict[str, dict[str, Any]] = {}
    for (name, target), sums in measured.sums.items():
        found = measure(sums, kinds[target], draws)._asdict()
        found["per_channel"] = [None if np.isnan(one) else one for one in found["per_channel"]]
        scores.setdefault(name, {})[target] = found | {"per_seed": per_seed(sums, kinds[target])}
    for source in sources:
        for target in kinds:
            blocks = chosen_blocks(source, target, readouts, len(recipe.seeds))
            choice = {"blocks": blocks, "penalties": [readouts[block, target].penalties[i] for i, block in enumerate(blocks)]}
            scores[source.name][target] |= choice
            for block in source.blocks if source.blocks != (source.name,) else ():
                scores[block][target] |= {"penalties": readouts[block, target].penalties}
    comparisons: dict[str, dict[str, Any]] = {}
    for a, b in recipe.compare:
        for name in (a, b):
            if name not in scores:
                raise ConfigError(f"compare names '{name}', which is not among {', '.join(sorted(scores))}")
        for target, is_classes in kinds.items():
            gain, low, high = difference(measured.sums[a, target], measured.sums[b, target], is_classes, draws)
            told = {"difference": gain, "low": low, "high": high, "clips": len(measured.videos), "seeds": len(recipe.seeds)}
            comparisons.setdefault(f"{a} minus {b}", {})[target] = told
    return {
        "targets": {
            target.name: {
                "kind": "values" if target.classes is None else "classes",
                "of": "frames" if target.is_of_frames else "places",
                "channels": target.width,
                "guessed": None if target.classes is None else guessed(next(_sums_of(measured, target.name))),
            }
            for target in targets
        },
        "scores": scores,
        "comparisons": comparisons,
        "clips": {"train": fitted_on, "held_out": len(measured.videos)},
        "encoders": {name: described(name, encoder, recipe) for name, encoder in encoders.items()},
        "grids": {source.name: list(source.grid) for source in sources if source.name != PIXELS},
    }


def _sums_of(measured: Measured, target: str) -> Any:
    return (sums for (_, name), sums in measured.sums.items() if name == target)


def say_results(found: dict[str, Any]) -> None:
    """Print the table of scores."""
    targets = found["targets"]
    heads = [f"{name}, {'R2' if facts['kind'] == 'values' else 'accuracy'}" for name, facts in targets.items()]
    width = max(12, *(len(head) + 2 for head in heads))
    say(f"read-outs on {found['clips']['held_out']} held-out clips".ljust(30) + "".join(f"{head:>{width}}" for head in heads))
    for name, scores in found["scores"].items():
        say(f"  {name:<28}" + "".join(f"{scores[target]['score']:>{width}.3f}" for target in targets))
