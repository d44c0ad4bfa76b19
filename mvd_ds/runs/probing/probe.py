"""This module measures frozen features by probes on every label of a manifest (``probe``), on any number of processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mvd_ds.config import ProbeRecipe
from mvd_ds.config.probing import VECTOR_HEADS, result_name
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.evaluation.features import Features
from mvd_ds.evaluation.probes import Probe, fit_probes, nearest_neighbours
from mvd_ds.files import write_json, write_text
from mvd_ds.runs.dense.probe_dense import probe_dense
from mvd_ds.runs.dense.results import PRODUCT as DENSE
from mvd_ds.runs.probing.base_to_new import described, halves_of, result_labels, say_halves
from mvd_ds.runs.probing.clips import Split
from mvd_ds.runs.probing.encoders import ProbedEncoder, open_encoders
from mvd_ds.runs.probing.head_states import HeadStates
from mvd_ds.runs.probing.order import order_results, pairs, parted, played, say_order, stacked
from mvd_ds.runs.probing.probe_heads import TOKEN_HEADS, probe_tokens
from mvd_ds.runs.probing.probe_results import (
    CORRECT,
    PREDICTIONS,
    Probes,
    predictions_text,
    results,
    say_results,
    write_correct,
)
from mvd_ds.runs.probing.probe_splits import splits_of
from mvd_ds.runs.probing.prompted import ALL_HEADS, FOLDER, probe_prompts, require_words
from mvd_ds.runs.probing.vectors import read_vectors
from mvd_ds.runs.results_folder import begin_results
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import StepProgress, say
from mvd_ds.training.contents import Contents
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.liveness.folder_owner import FolderOwner
from mvd_ds.training.run_folder import RunFolder, Status

PRODUCT = "probes.json"

Found = dict[str, tuple[Probe, ...]]
"""Probes by name of the result, in the order of the labels."""


def probe(recipe: ProbeRecipe, name: str) -> None:
    """Run the probes of ``recipe`` and write ``probes.json``, ``correct.npz`` and the predictions of trained heads.

    A dense probe writes ``dense.json``, ``dense.npz``, its predictions and pictures.

    Raises:
        ConfigError: if models or manifests do not fit each other, or there is no label; on every rank.
    """
    folder, product = RunFolder.of(recipe, name), PRODUCT if recipe.task == "labels" else DENSE
    with joined_cluster(recipe.timeout_minutes, recipe.run.device) as cluster, FolderOwner(folder.path) as owner:
        contents = begin_results(recipe, folder, product, owner, cluster)
        if contents is None:
            return
        if recipe.task == "dense":
            probe_dense(recipe, folder, contents, cluster)
        else:
            _probe(recipe, folder, contents, cluster)


def _probe(recipe: ProbeRecipe, folder: RunFolder, contents: Contents, cluster: Cluster) -> None:
    """Measure all models and write what was found."""
    status = Status(folder, last_step=1) if cluster.is_main else None
    with cluster.together():
        train, held_out = splits_of(recipe)
    if not train[0].label_names:
        if status is not None:
            say(f"{recipe.data.manifest}: nothing to probe")
            write_json(folder.path / PRODUCT, {"probes": {}, "chance": {}, "comparisons": {}, "labels": {}})
            status.write("finished", 1)
        return
    with cluster.together():
        require_words(recipe, train[0])
        encoders = open_encoders(recipe, cluster.device)
    faults: list[str] = []
    views = [recipe.views_of(is_held_out) for is_held_out in (False, True)]
    ways = played(recipe)
    known, fitted_on = read_vectors(recipe, encoders, train, views[0], "training clips", faults, cluster, ways)
    unseen, measured_on = read_vectors(recipe, encoders, held_out, views[1], "held-out clips", faults, cluster, ways)
    read = {"read": f"{fitted_on[1]} {measured_on[1]}"}  # heads go on with the very clips that they began with
    states = HeadStates(folder.path / "heads", recipe, contents | read, cluster)
    trained = [
        probe_tokens(name, encoder, recipe, fitted_on, measured_on, cluster, states)
        for name, encoder in encoders.items()
        if set(recipe.heads) & set(TOKEN_HEADS)
    ]
    prompted: Probes = {}
    for name, encoder in encoders.items():
        if set(recipe.heads) & set(ALL_HEADS):
            prompts = folder.path / FOLDER
            prompted = {**prompted, **probe_prompts(name, encoder, recipe, fitted_on, measured_on, cluster, states, prompts)}
    with cluster.together():
        if status is not None and recipe.base_to_new is not None:
            fitted = _fit_halves(recipe, known[0], unseen[0], fitted_on[0])
            _write_halves(recipe, folder, {**fitted, **prompted}, (known[0], unseen[0]), fitted_on[0], measured_on, encoders)
        elif status is not None:
            of_ways, told = _fit_all(recipe, known, unseen)
            for found in trained:
                of_ways = [own | more for own, more in zip(of_ways, found.labels, strict=True)]
                told = {way: own | found.told[way] for way, own in told.items()}
            of_ways[0] |= {name: tuple(probe for probe in own if probe is not None) for name, own in prompted.items()}
            _write(recipe, folder, train[0].label_names, (of_ways, told), (known[0], unseen[0]), measured_on, encoders)
        if status is not None:
            states.drop()
            status.write("finished", 1, replaced_videos=dict.fromkeys(faults, 1))


def _write(
    recipe: ProbeRecipe,
    folder: RunFolder,
    labels: tuple[str, ...],
    probes: tuple[list[Found], dict[str, Found]],
    features: tuple[Features, Features],
    measured_on: Split,
    encoders: Mapping[str, ProbedEncoder],
) -> None:
    """Write and print what was found: on clips as they are, on those played in other ways, and what tells the two apart."""
    plain, *changed = (_in_order(recipe, of_way) for of_way in probes[0])
    told = {way: _in_order(recipe, found) for way, found in probes[1].items()}
    write_correct(folder.path / CORRECT, labels, plain, features[1].labels)
    if text := predictions_text(recipe, measured_on, labels, plain):
        write_text(folder.path / PREDICTIONS, text)
    found = results(recipe, labels, plain, features[0].labels, features[1].labels, encoders)
    order = order_results(recipe, labels, told, dict(zip(recipe.order, changed, strict=True)))
    write_json(folder.path / PRODUCT, found | ({"order": order} if order else {}))
    say_results(labels, plain, found)
    say_order(recipe, order)


def _write_halves(
    recipe: ProbeRecipe,
    folder: RunFolder,
    probes: Probes,
    features: tuple[Features, Features],
    manifest: Manifest,
    measured_on: Split,
    encoders: Mapping[str, ProbedEncoder],
) -> None:
    """Write and print what was found of both halves of the classes of each label."""
    labels, ordered = result_labels(recipe, manifest.label_names), _in_order(recipe, probes)
    write_correct(folder.path / CORRECT, labels, ordered, features[1].labels)
    if text := predictions_text(recipe, measured_on, labels, ordered):
        write_text(folder.path / PREDICTIONS, text)
    found = results(recipe, labels, ordered, features[0].labels, features[1].labels, encoders)
    told = described(recipe, manifest, ordered, features[1].labels)
    write_json(folder.path / PRODUCT, found | {"base_to_new": told})
    say_results(labels, ordered, found)
    say_halves(told)


def _in_order(recipe: ProbeRecipe, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the probes head by head."""

    heads: tuple[str, ...] = recipe.heads

    def place(name: str) -> int:
        return heads.index(name.rpartition(":")[2] if ":" in name else "linear")

    return dict(sorted(found.items(), key=lambda entry: place(entry[0])))


def _fit_halves(recipe: ProbeRecipe, known: Features, unseen: Features, manifest: Manifest) -> Probes:
    """Return the probes of vectors, fitted on the base half of each label's classes; of the other half there is no answer."""
    probes: dict[str, tuple[Probe | None, ...]] = {}
    for number, label in enumerate(manifest.label_names):
        halves = halves_of(recipe, manifest, label)
        assert halves is not None
        fitted, asked = (_only(features, number, halves.base) for features in (known, unseen))
        places = np.flatnonzero(np.isin(unseen.labels[:, number], halves.base))
        for name, (probe,) in _fit_vectors(recipe, fitted, asked, f", base classes of {label}").items():
            probes[name] = (*probes.get(name, ()), probe._replace(clips=places), None)
    return probes


def _only(features: Features, number: int, classes: tuple[int, ...]) -> Features:
    """Return the vectors of the clips of some classes of a label, with that label alone."""
    rows = np.isin(features.labels[:, number], classes)
    vectors = {name: values[rows] for name, values in features.features.items()}
    return Features(vectors, features.labels[rows][:, [number]], features.ok[rows])


def _fit_all(recipe: ProbeRecipe, known: list[Features], unseen: list[Features]) -> tuple[list[Found], dict[str, Found]]:
    """Return the probes of vectors: of the labels by way of playing, and by way those that tell it from the plain one."""
    of_ways = parted(_fit_vectors(recipe, known[0], stacked(unseen)), len(unseen))
    told: dict[str, Found] = {
        way: _fit_vectors(recipe, pairs(known[0], known[number]), pairs(unseen[0], unseen[number]), f", plain or {way}")
        for number, way in enumerate(recipe.order, 1)
    }
    return of_ways, told


def _fit_vectors(recipe: ProbeRecipe, known: Features, unseen: Features, what: str = "") -> Found:
    """Fit those probes that take one vector a clip, in this process."""
    found: Found = {}
    for head in recipe.heads:
        if head in VECTOR_HEADS:
            sizes = f"{len(known.features)} features x {known.labels.shape[1]} labels x {len(recipe.seeds)} seeds"
            say(f"fitting {head}{what}: {sizes}")
            found |= {result_name(name, head): result for name, result in VECTOR_FITS[head](known, unseen, recipe).items()}
    return found


def _fit_linear(known: Features, unseen: Features, recipe: ProbeRecipe) -> Found:
    """Fit linear probes of all models, in as many processes as there are cores."""
    told, workers = _told(len(known.features) * known.labels.shape[1]), os.cpu_count() or 1
    given = (known.features, known.labels, unseen.features, unseen.labels)
    return fit_probes(*given, recipe, told, workers, known.rows_per_clip)


def _vote(known: Features, unseen: Features, recipe: ProbeRecipe) -> Found:
    """Classify by nearest neighbours: probes by model, in the order of the labels."""
    return {
        name: tuple(
            nearest_neighbours(rows, known.labels[:, label], unseen.features[name], unseen.labels[:, label], recipe)
            for label in range(known.labels.shape[1])
        )
        for name, rows in known.features.items()
    }


VECTOR_FITS: dict[str, Callable[[Features, Features, ProbeRecipe], Found]] = {
    "linear": _fit_linear,
    "knn": _vote,
}


def _told(total: int) -> Callable[[int, int], None]:
    progress = StepProgress("probes", 0, total, enabled=True)

    def tell(done: int, _: int) -> None:
        progress.update(done, "fitted")
        if done == total:
            progress.close()

    return tell
