"""The clips of a probe: which it is fitted on, which are held out, and which of their labels can be told apart."""

from __future__ import annotations

import numpy as np

from mvd_ds.config import ConfigError, ProbeRecipe
from mvd_ds.data.manifests.labels import numbered_alike, relabelled, why_not_a_class
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from mvd_ds.data.manifests.written_fields import refuse_written
from mvd_ds.evaluation.probes import selection_split
from mvd_ds.runs.probing.base_to_new import halves_of
from mvd_ds.runs.probing.clips import Split
from mvd_ds.training.console import say


def splits_of(recipe: ProbeRecipe) -> tuple[Split, Split]:
    """Return (manifest, videos of it) to fit on, and the same held out, both with the labels that are probed.

    Dense probes need no labels, and look at none.

    Raises:
        ConfigError: if a manifest cannot be used, or labels are required and cannot be probed.
    """
    manifest = read_manifest(recipe.data.manifest, recipe.data.root)
    count = len(manifest.refs)
    if recipe.validation_manifest is not None:
        fitted_on = _drawn(recipe, list(range(count)))
        manifest = _probed(recipe, manifest, fitted_on)
        other = read_manifest(recipe.validation_manifest, recipe.data.root, "validation_manifest")
        other = numbered_alike(
            other, manifest, f"validation_manifest {recipe.validation_manifest}", recipe.data.classes_by_position
        )
        return (manifest, fitted_on), (other, _drawn(recipe, list(range(len(other.refs)))))
    order = np.random.default_rng(recipe.run.seed).permutation(count).tolist()
    cut = max(round(recipe.held_out_share * count), 1)
    fitted_on = _drawn(recipe, sorted(order[cut:]))
    manifest = _probed(recipe, manifest, fitted_on)
    return (manifest, fitted_on), (manifest, _drawn(recipe, sorted(order[:cut])))


def _drawn(recipe: ProbeRecipe, videos: list[int]) -> list[int]:
    """Return ``recipe.most_clips`` of ``videos``, in their order."""
    if recipe.most_clips is None or len(videos) <= recipe.most_clips:
        return videos
    chosen = np.random.default_rng(recipe.run.seed).choice(len(videos), recipe.most_clips, replace=False)
    return [videos[index] for index in sorted(chosen.tolist())]


def require_labels(recipe: ProbeRecipe) -> int:
    """Check, for `quickstart.sh`, that a label can be probed before anything is trained, and return the number of videos.

    Raises:
        ConfigError: if there is none, with the reason.
    """
    train, _ = splits_of(recipe.model_copy(update={"labels": "required"}))
    return len(train[0].refs)


def _probed(recipe: ProbeRecipe, manifest: Manifest, fitted_on: list[int]) -> Manifest:
    """Return the manifest with the labels that can be probed, none of a dense probe; where required, these are all it has.

    Raises:
        ConfigError: if they are required, and there is none or one whose numbers are no classes.
    """
    if recipe.task == "dense":
        return relabelled(manifest, {})
    kept = {}
    for label in manifest.refs.written.odd if manifest.refs.written is not None else ():
        try:
            refuse_written(manifest, label, recipe.data.manifest)
        except ConfigError as fault:
            if recipe.labels == "required":
                raise
            say(f"not probed: {fault}")
    for number, label in enumerate(manifest.label_names):
        labels = manifest.labels[:, number]
        fault = why_not_a_class(manifest, label, recipe.data.manifest)
        if not fault:
            halves = halves_of(recipe, manifest, label)
            learnt = labels[fitted_on] if halves is None else labels[fitted_on][np.isin(labels[fitted_on], halves.base)]
            fault = _fault_of_split(recipe, label, learnt)
        if not fault:
            kept[label] = labels
        elif recipe.labels == "required":
            raise ConfigError(fault)
        else:
            say(f"not probed: {fault}")
    if not kept and recipe.labels == "required":
        raise ConfigError(
            f"{recipe.data.manifest}: has no labels to probe; put the videos of each class into a folder of its own, or write "
            "'path label' lines; `labels=optional` goes on without"
        )
    return relabelled(manifest, kept)


def _fault_of_split(recipe: ProbeRecipe, label: str, labels: np.ndarray) -> str:
    """Return why so few clips cannot be fitted, '' if they can: each seed chooses on a share of them and fits on the rest."""
    for seed in recipe.seeds if set(recipe.heads) - {"knn", "zero_shot"} else ():
        rest = selection_split(len(labels), recipe.selection_share, seed)[2]
        if len(np.unique(labels[rest])) < 2:
            return (
                f"{recipe.data.manifest}: label {label}: the {len(rest)} clips that a probe is fitted on show a single class; "
                "give more videos of each class"
            )
    return ""
