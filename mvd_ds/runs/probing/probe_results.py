"""The files of a finished probe: ``probes.json``, ``correct.npz`` and ``predictions.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mvd_ds.config import ConfigError, ProbeRecipe
from mvd_ds.evaluation.csv_files import csv_text
from mvd_ds.evaluation.probes import Probe, accuracy_interval, chance, compare
from mvd_ds.files import written_aside
from mvd_ds.runs.probing.clips import Split
from mvd_ds.runs.probing.encoders import ProbedEncoder
from mvd_ds.training.console import say

#: Held-out clips that every probe got right, bool (seeds, clips) as ``MODEL/LABEL``; and ``labels``, int64 (clips, labels).
CORRECT = "correct.npz"
#: The answers of trained heads to every held-out video.
PREDICTIONS = "predictions.csv"

Probes = Mapping[str, tuple[Probe | None, ...]]
"""Probes by name of the result, in the order of the labels of the results; None where a head has no answer."""


def write_correct(path: Path, labels: tuple[str, ...], probes: Probes, unseen: np.ndarray) -> None:
    """Write the file that ``report`` pools probes of several training seeds from.

    Raises:
        ConfigError: if it cannot be written.
    """
    tables = {
        f"{name}/{label}": probe.correct
        for name, found in probes.items()
        for label, probe in zip(labels, found, strict=True)
        if probe is not None
    }
    try:
        with written_aside(path) as aside, aside.open("wb") as file:
            np.savez_compressed(file, labels=unseen, **tables)  # type: ignore[arg-type]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


def predictions_text(recipe: ProbeRecipe, measured_on: Split, labels: tuple[str, ...], probes: Probes) -> str:
    """Return ``predictions.csv``: a row for every held-out video, label, trained head and seed; '' without trained heads."""
    manifest, videos = measured_on
    rows: list[list[object]] = [["path", "label", "true", "probe", "seed", "answer", "probability"]]
    for name, found in probes.items():
        for place, (label, probe) in enumerate(zip(labels, found, strict=True)):
            if probe is None or probe.classes is None or probe.shares is None:
                continue
            number = place * manifest.labels.shape[1] // len(labels)
            own = videos if probe.clips is None else [videos[clip] for clip in probe.clips.tolist()]
            for seed, classes, shares in zip(recipe.seeds, probe.classes, probe.shares, strict=True):
                for video, answer, share in zip(own, classes.tolist(), shares.tolist(), strict=True):
                    true = int(manifest.labels[video, number])
                    rows.append([manifest.refs.path(video), label, true, name, seed, answer, f"{share:.6f}"])
    return csv_text(rows) if len(rows) > 1 else ""


def results(
    recipe: ProbeRecipe,
    labels: tuple[str, ...],
    probes: Probes,
    known: np.ndarray,
    unseen: np.ndarray,
    encoders: Mapping[str, ProbedEncoder],
) -> dict[str, Any]:
    """Return the content of ``probes.json``.

    Args:
        recipe: the probe run.
        labels: their names.
        probes: what was found.
        known: labels of the training clips, int64 (S, L).
        unseen: labels of the held-out clips.
        encoders: the networks by name.

    Raises:
        ConfigError: if a comparison names a block that was not probed.
    """
    comparisons = {}
    for a, b in recipe.compare:
        for name in (a, b):
            if name not in probes:
                raise ConfigError(f"compare names '{name}', which is not among {', '.join(sorted(probes))}")
        comparisons[f"{a} minus {b}"] = {
            label: {
                **compare(ours, theirs, recipe.bootstrap_draws)._asdict(),
                "clips": ours.correct.shape[1],
                "seeds": len(recipe.seeds),
            }
            for label, ours, theirs in zip(labels, probes[a], probes[b], strict=True)
            if ours is not None and theirs is not None
        }
    told = {
        name: {label: probe for label, probe in zip(labels, found, strict=True) if probe is not None}
        for name, found in probes.items()
    }
    seen = _seen(labels, told, unseen)
    return {
        "probes": {name: {label: probe.top1 for label, probe in own.items()} for name, own in told.items()},
        "intervals": {
            name: {label: list(accuracy_interval(probe.correct, recipe.bootstrap_draws)[1:]) for label, probe in own.items()}
            for name, own in told.items()
        },
        "chance": {label: chance(column) for label, column in seen.items()},
        "details": {name: {label: _details(probe) for label, probe in own.items()} for name, own in told.items()},
        "comparisons": comparisons,
        "clips": {"train": len(known), "held_out": len(unseen)},
        "pooling": recipe.pooling.kind,
        "labels": {label: len(np.unique(column)) for label, column in seen.items()},
        "encoders": {name: described(name, encoder, recipe) for name, encoder in encoders.items()},
    }


def _seen(labels: tuple[str, ...], told: Mapping[str, Mapping[str, Probe]], unseen: np.ndarray) -> dict[str, np.ndarray]:
    """Return the labels int64 (S,) of the held-out clips that each label of the results is measured on."""
    found = {}
    for place, label in enumerate(labels):
        probe = next((own[label] for own in told.values() if label in own), None)
        if probe is not None:
            column = unseen[:, place * unseen.shape[1] // len(labels)]
            found[label] = column if probe.clips is None else column[probe.clips]
    return found


def _details(probe: Probe) -> dict[str, Any]:
    """Return the top-1 of each seed, and what it chose."""
    if probe.classes is None:
        return {"per_seed": list(probe.per_seed), "regularisation": list(probe.regularisations)}
    chosen = {"learning_rate": list(probe.regularisations), "weight_decay": list(probe.weight_decays)}
    return {"per_seed": list(probe.per_seed), **chosen}


def described(name: str, encoder: ProbedEncoder, recipe: ProbeRecipe) -> dict[str, Any]:
    """Return what a table of encoders says of one."""
    model, clip = recipe.models[name], recipe.data.clip
    side = model.input_px or clip.size_px
    frames = len(range(0, clip.frames, encoder.stride))
    return {
        "network": model.network or "",
        "weights": "untrained" if model.untrained or model.weights == "random" else model.weights,
        "kind": encoder.settings.kind,
        "parameters": encoder.parameters,
        "width": encoder.network.embed_dim,
        "input": f"{frames} x {side} px",
        "frames": model.frames,
        "blocks": dict(zip(encoder.names(name, recipe), encoder.blocks, strict=True)),
        "depth": encoder.network.block_count,
    }


def say_results(labels: tuple[str, ...], probes: Probes, found: Mapping[str, Any]) -> None:
    """Print the table of held-out top-1."""
    say(f"held-out top-1 on {found['clips']['held_out']} clips" + "".join(f"{label:>10}" for label in labels))
    for name, of_labels in probes.items():
        say(f"  {name:<28}" + "".join(f"{'-':>10}" if probe is None else f"{probe.top1:>10.3f}" for probe in of_labels))
    told = (found["chance"].get(label) for label in labels)
    say(f"  {'chance':<28}" + "".join(f"{'-':>10}" if one is None else f"{one:>10.3f}" for one in told))
