"""This module measures frozen features by probes on every label of a manifest (``probe``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, ProbedModel, ProbeRecipe, TrainingRecipe
from mvd_ds.config.evaluation import VECTOR_HEADS, result_name
from mvd_ds.data.evaluation import evaluation_batches
from mvd_ds.evaluation.features import Extractor, Features, extract_features, pixel_features
from mvd_ds.evaluation.probes import Probe, accuracy_interval, chance, compare, fit_probes, nearest_neighbours
from mvd_ds.files import write_json, written_aside
from mvd_ds.models.building import is_run_model, open_encoder
from mvd_ds.models.classifiers.pooling import clip_features, encoder_pooling
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import read_recipe
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.runs.probing.probe_heads import Split, probe_tokens
from mvd_ds.runs.probing.probe_splits import splits_of
from mvd_ds.runs.results_folder import require_own_folder
from mvd_ds.runs.student import build_predictor, load_predictor
from mvd_ds.training.console import StepProgress, say
from mvd_ds.training.contents import is_finished
from mvd_ds.training.run_folder import RunFolder, Status
from mvd_ds.training.step import normalise, to_unit

#: Held-out clips that every probe got right, bool (seeds, clips) as ``MODEL/LABEL``; and ``labels``, int64 (clips, labels).
CORRECT = "correct.npz"


def probe(recipe: ProbeRecipe, name: str) -> None:
    """Run the probes of ``recipe`` in this process and write ``probes.json`` and ``correct.npz``.

    Raises:
        ConfigError: if models or manifests do not fit each other, or there is no label.
    """
    folder = RunFolder.of(recipe, name)
    if is_finished(folder, recipe, "probes.json", contents_with_videos):
        say(f"{folder.path} is finished; nothing to do")
        return
    contents = contents_with_videos(recipe, folder.digests)
    require_own_folder(folder, recipe, contents)
    folder.open(recipe, contents)
    status = Status(folder, last_step=1)
    train, held_out = splits_of(recipe)
    label_names = train[0].label_names
    if not label_names:
        say(f"{recipe.data.manifest}: nothing to probe")
        write_json(folder.path / "probes.json", {"probes": {}, "chance": {}, "comparisons": {}, "labels": {}})
        status.write("finished", 1)
        return
    encoders = _encoders(recipe)
    extractors = _extractors(recipe, encoders)
    faults: list[str] = []
    known, fitted_on = _features(recipe, extractors, train, "training clips", faults)
    unseen, measured_on = _features(recipe, extractors, held_out, "held-out clips", faults)
    say(f"fitting {len(extractors)} models x {len(label_names)} labels x {len(recipe.seeds)} seeds")
    probes: dict[str, tuple[Probe, ...]] = {}
    for head in recipe.heads:
        if head in VECTOR_HEADS:
            found = VECTOR_FITS[head](known, unseen, recipe)
        else:
            found = {
                name: probe_tokens(head, name, encoder, recipe.models[name], recipe, fitted_on, measured_on)
                for name, encoder in encoders.items()
            }
        probes |= {result_name(name, head): result for name, result in found.items()}
    _write_correct(folder.path / CORRECT, label_names, probes, unseen)
    write_json(folder.path / "probes.json", _results(recipe, label_names, probes, known, unseen))
    status.write("finished", 1, replaced_videos=dict.fromkeys(faults, 1))
    _say_results(label_names, probes, unseen)


def _fit_linear(known: Features, unseen: Features, recipe: ProbeRecipe) -> dict[str, tuple[Probe, ...]]:
    """Fit linear probes of all models, in as many processes as there are cores."""
    told = _told(len(known.features) * known.labels.shape[1])
    return fit_probes(known.features, known.labels, unseen.features, unseen.labels, recipe, told, workers=os.cpu_count() or 1)


def _vote(known: Features, unseen: Features, recipe: ProbeRecipe) -> dict[str, tuple[Probe, ...]]:
    """Classify by nearest neighbours: probes by model, in the order of the labels."""
    return {
        name: tuple(
            nearest_neighbours(rows, known.labels[:, label], unseen.features[name], unseen.labels[:, label], recipe)
            for label in range(known.labels.shape[1])
        )
        for name, rows in known.features.items()
    }


VECTOR_FITS: dict[str, Callable[[Features, Features, ProbeRecipe], dict[str, tuple[Probe, ...]]]] = {
    "linear": _fit_linear,
    "knn": _vote,
}


def _encoders(recipe: ProbeRecipe) -> dict[str, VisionTransformer]:
    """Return the frozen encoders by name, on the device."""
    device = torch.device("cuda" if recipe.run.device == "auto" and torch.cuda.is_available() else "cpu")
    return {name: _encoder(name, model, recipe).to(device).eval().requires_grad_(False) for name, model in recipe.models.items()}


def _extractors(recipe: ProbeRecipe, encoders: dict[str, VisionTransformer]) -> dict[str, Extractor]:
    extractors = {
        name: Extractor(_forward(encoder, recipe.models[name], recipe), recipe.models[name].frames)
        for name, encoder in encoders.items()
    }
    if recipe.pixels:
        extractors["pixels"] = Extractor(pixel_features)
    return extractors


def _forward(encoder: VisionTransformer, model: ProbedModel, recipe: ProbeRecipe) -> Callable[[Tensor], Tensor]:
    """Return the function from uint8 (B, C, T, H, W) to features (B, D) of one frozen encoder."""
    device = next(encoder.parameters()).device
    stride = model.every_frames if encoder.settings.kind == "image" else 1
    pooling = encoder_pooling(encoder, recipe.pooling).requires_grad_(False)

    def forward(clip: Tensor) -> Tensor:
        return clip_features(encoder, normalise(to_unit(clip[:, :, ::stride].to(device)), torch.float32), pooling)

    return forward


def _encoder(name: str, model: ProbedModel, recipe: ProbeRecipe) -> VisionTransformer:
    """Return the encoder of a run's model, or of a file in any other format, for the clips of the probe."""
    if not is_run_model(model.weights):
        if model.untrained:
            raise ConfigError(f"models.{name}.untrained: {model.weights} has no recipe, so its first weights are not known")
        clip = recipe.data.clip
        return open_encoder(model.weights, clip.frames, clip.size_px)
    trained = read_recipe(model.weights)
    _require_fit(name, model, trained, recipe)
    return (build_predictor(trained) if model.untrained else load_predictor(model.weights)[0]).encoder


def _require_fit(name: str, model: ProbedModel, trained: TrainingRecipe, recipe: ProbeRecipe) -> None:
    ours, theirs = recipe.data.clip, trained.data.clip
    wrong = [] if ours.size_px == theirs.size_px else [f"size_px {ours.size_px}, trained with {theirs.size_px}"]
    if trained.model.kind == "video" and ours.frames != theirs.frames:
        wrong.append(f"frames {ours.frames}, trained with {theirs.frames}")
    if wrong:
        raise ConfigError(f"models.{name} {model.weights}: does not fit data.clip.{' and data.clip.'.join(wrong)}")


def _features(
    recipe: ProbeRecipe, extractors: dict[str, Extractor], split: Split, what: str, faults: list[str]
) -> tuple[Features, Split]:
    """Return the features of those clips of ``split`` that could be read, and the split of these."""
    manifest, videos = split
    clip = recipe.data.clip
    batches: Iterator[Any] = evaluation_batches(recipe.data, manifest, recipe.batch, clip.frames, clip.size_px, videos, faults)
    progress = StepProgress(f"features of {what}", 0, len(videos), enabled=True)
    found = extract_features(extractors, batches, recipe.run.seed, lambda seen: progress.update(seen, "clips"))
    progress.close()
    features = {key: rows[found.ok] for key, rows in found.features.items()}
    read = [video for video, ok in zip(videos, found.ok, strict=True) if ok]
    return Features(features, found.labels[found.ok], found.ok[found.ok]), (manifest, read)


def _told(total: int) -> Callable[[int, int], None]:
    progress = StepProgress("probes", 0, total, enabled=True)

    def tell(done: int, _: int) -> None:
        progress.update(done, "fitted")
        if done == total:
            progress.close()

    return tell


def _write_correct(path: Path, labels: tuple[str, ...], probes: dict[str, tuple[Probe, ...]], unseen: Features) -> None:
    """Write the file that ``report`` pools probes of several training seeds from.

    Raises:
        ConfigError: if it cannot be written.
    """
    tables = {f"{name}/{label}": found[i].correct for name, found in probes.items() for i, label in enumerate(labels)}
    try:
        with written_aside(path) as aside, aside.open("wb") as file:
            np.savez_compressed(file, labels=unseen.labels, **tables)  # type: ignore[arg-type]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


def _results(
    recipe: ProbeRecipe, labels: tuple[str, ...], probes: dict[str, tuple[Probe, ...]], known: Features, unseen: Features
) -> dict[str, Any]:
    comparisons = {}
    for a, b in recipe.compare:
        comparisons[f"{a} minus {b}"] = {
            label: {
                **compare(probes[a][i], probes[b][i], recipe.bootstrap_draws)._asdict(),
                "clips": len(unseen.labels),
                "seeds": len(recipe.seeds),
            }
            for i, label in enumerate(labels)
        }
    return {
        "probes": {name: {label: found[i].top1 for i, label in enumerate(labels)} for name, found in probes.items()},
        "intervals": {
            name: {label: list(accuracy_interval(found[i].correct, recipe.bootstrap_draws)[1:]) for i, label in enumerate(labels)}
            for name, found in probes.items()
        },
        "chance": {label: chance(unseen.labels[:, i]) for i, label in enumerate(labels)},
        "details": {
            name: {
                label: {"per_seed": list(found[i].per_seed), _chosen(name): list(found[i].regularisations)}
                for i, label in enumerate(labels)
            }
            for name, found in probes.items()
        },
        "comparisons": comparisons,
        "clips": {"train": len(known.labels), "held_out": len(unseen.labels)},
        "pooling": recipe.pooling.kind,
        "labels": {label: len(np.unique(unseen.labels[:, i])) for i, label in enumerate(labels)},
    }


def _chosen(name: str) -> str:
    """Return the name of the number that each seed of a result chose."""
    return "learning_rate" if name.endswith((":attentive", ":vqt")) else "regularisation"


def _say_results(labels: tuple[str, ...], probes: dict[str, tuple[Probe, ...]], unseen: Features) -> None:
    say(f"held-out top-1 on {len(unseen.labels)} clips" + "".join(f"{label:>10}" for label in labels))
    for name, found in probes.items():
        say(f"  {name:<28}" + "".join(f"{probe.top1:>10.3f}" for probe in found))
    say(f"  {'chance':<28}" + "".join(f"{chance(unseen.labels[:, i]):>10.3f}" for i in range(len(labels))))
