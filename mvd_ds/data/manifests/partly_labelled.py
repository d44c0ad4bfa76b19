"""The classes of a mixture in which not every manifest, and not every video of one, has to have a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvd_ds.config import LabelSettings
from mvd_ds.data.manifests.labels import Classes, classes_of
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.manifests.written_fields import refuse_written
from mvd_ds.files import ConfigError, counted, did_you_mean

UNLABELLED = -1
"""Class of a video without one; in a manifest of plain numbers, too, where some of its videos have none."""


def partly_labelled(
    manifests: Sequence[Manifest], origins: Sequence[str], label: str | None, by_position: bool = False
) -> tuple[Classes, np.ndarray]:
    """Return the classes of a mixture, and the class of every video, int64 (n,), through all manifests.

    Args:
        manifests: manifests of the mixture.
        origins: their names in messages.
        label: which label; a manifest without it is unlabelled. None: the only one of each manifest that has any.
        by_position: accept plain numbers for names without evidence.

    Raises:
        ConfigError: if no video has a class, or the classes of two manifests cannot be matched.
    """
    rows = [_labelled_rows(manifest, label) for manifest in manifests]
    known = [number for number, of_manifest in enumerate(rows) if len(of_manifest)]
    if not known:
        for manifest, origin in zip(manifests, origins, strict=True):
            refuse_written(manifest, label, origin)
        raise ConfigError(f"{', '.join(origins)}: {_nothing_found(manifests, label)}")
    parts = [manifests[number].part(rows[number]) for number in known]
    names = [origins[number] for number in known]
    classes, found = classes_of(parts, names, label, allow_empty=True, by_position=by_position)
    labels = [np.full(len(manifest.refs), UNLABELLED, np.int64) for manifest in manifests]
    ends = np.cumsum([len(part.refs) for part in parts])[:-1]
    for number, values in zip(known, np.split(found, ends), strict=True):
        labels[number][rows[number]] = values
    return classes, np.concatenate(labels)


def class_numbers_of(
    manifests: Sequence[Manifest], origins: Sequence[str], settings: LabelSettings, by_position: bool = False
) -> np.ndarray:
    """Return the class of every video, int64 (n,), for a head of ``settings.classes`` classes; see ``partly_labelled``.

    Raises:
        ConfigError: as ``partly_labelled``, and if there are others than that many classes.
    """
    classes, labels = partly_labelled(manifests, origins, settings.label, by_position)
    found = len(classes.names)
    # Numbers without names: that of the last class may be missing.
    if found > settings.classes or (classes.named and found != settings.classes):
        raise ConfigError(
            f"labels.classes {settings.classes}: label {classes.label} of {', '.join(origins)} has {found} classes; "
            f"set labels.classes={found}"
        )
    return labels


def _labelled_rows(manifest: Manifest, label: str | None) -> np.ndarray:
    """Return the rows, int64 (k,), of a manifest whose videos have this label, or one that only ``classes_of`` can judge."""
    if label is not None and label not in manifest.label_names:
        return np.zeros(0, np.int64)
    if label is None and len(manifest.label_names) != 1:
        return np.arange(len(manifest.refs) if manifest.label_names else 0)
    column = 0 if label is None else manifest.label_names.index(label)
    return np.flatnonzero(manifest.labels[:, column] != UNLABELLED)


def _nothing_found(manifests: Sequence[Manifest], label: str | None) -> str:
    names = tuple(dict.fromkeys(name for manifest in manifests for name in manifest.label_names))
    if label is not None and label not in names and names:
        return f"no manifest has a label '{label}'; {did_you_mean(label, names, 'labels are ' + ', '.join(names))}"
    videos = sum(len(manifest.refs) for manifest in manifests)
    return f"none of {counted(videos, 'video')} has a class; write 'path label' lines, or leave labels out of the recipe"
