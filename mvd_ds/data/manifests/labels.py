"""Which label of a manifest is learnt, and the names of its classes: all from the manifest, nothing from a data set's name."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.manifest import Manifest

UNNAMED = "label"
"""What a manifest's only label is called where nobody named it."""
MOST_CLASSES = 100_000
"""Of classes without names. A larger label is a fault, a video's id for example, and so many names would fill the memory."""


class Classes(NamedTuple):
    """The classes of one label."""

    label: str
    """Name of the label."""
    names: tuple[str, ...]
    """One for each class, class 0 first; numbers where the manifest does not name them."""
    named: bool
    """Whether the manifest names them."""


def classes_of(
    manifests: Sequence[Manifest], origins: Sequence[str], label: str | None, allow_empty: bool = False
) -> tuple[Classes, np.ndarray]:
    """The classes of the training manifests, and the class of every video, int64 (n,), through all of them.

    The first manifest that names its classes decides what they are and their order.

    Args:
        manifests: of the training videos, one or several.
        origins: name them in messages.
        label: which label; None: the only one.
        allow_empty: accept classes without a video.

    Raises:
        ConfigError: no or several labels to choose from, manifests of different labels or classes, a label outside its
            classes, a class without a video, or fewer than two classes.
    """
    columns = [_column(manifest, label, origin) for manifest, origin in zip(manifests, origins, strict=True)]
    chosen = manifests[0].label_names[columns[0]]
    named = next((names for m, c in zip(manifests, columns, strict=True) if (names := m.class_names.get(m.label_names[c]))), None)
    largest = max(int(manifest.labels[:, column].max()) for manifest, column in zip(manifests, columns, strict=True))
    names = named or tuple(str(number) for number in range(min(max(largest, 0) + 1, MOST_CLASSES)))
    classes = Classes(chosen, names, named is not None)
    labels = np.concatenate([labels_of(*pair) for pair in zip(manifests, [classes] * len(manifests), origins, strict=True)])
    if len(names) < 2:
        raise ConfigError(f"{origins[0]}: label {chosen} has a single class; fine-tuning needs at least two")
    _require_videos(classes, labels, ", ".join(origins), allow_empty)
    return classes, labels


def _require_videos(classes: Classes, labels: np.ndarray, origin: str, allow_empty: bool) -> None:
    count = len(classes.names)
    empty = np.flatnonzero(np.bincount(labels, minlength=count) == 0)
    if len(empty) and not allow_empty:
        shown = ", ".join(f"{number} ({classes.names[number]})" if classes.named else str(number) for number in empty[:5])
        raise ConfigError(
            f"{origin}: {len(empty)} of {count} classes of label {classes.label} have no video: {shown}"
            f"{', ...' * (len(empty) > 5)}; number classes from 0 without gaps, add videos, or set allow_empty_classes=true"
        )


def labels_of(manifest: Manifest, classes: Classes, origin: str) -> np.ndarray:
    """int64 (n,): the class of every video of a manifest, as ``classes`` numbers them.

    Where both name their classes the names decide: a folder that lacks a class numbers the others differently.

    Raises:
        ConfigError: if the manifest has another label or other classes.
    """
    only_unnamed = manifest.label_names == (UNNAMED,) or (classes.label == UNNAMED and len(manifest.label_names) == 1)
    wanted = manifest.label_names[0] if only_unnamed else classes.label
    column = _column(manifest, wanted, origin)
    values, named = manifest.labels[:, column], manifest.class_names.get(wanted)
    if not named or not classes.named:
        _require_range(manifest, values, len(classes.names), origin)
        return values
    _require_range(manifest, values, len(named), origin)
    number = {name: index for index, name in enumerate(classes.names)}
    strange = [name for name in named if name not in number]
    if strange:
        raise ConfigError(
            f"{origin}: {len(strange)} of its {len(named)} classes are not among the {len(classes.names)} of the training "
            f"manifest: {', '.join(strange[:5])}; both need the same classes"
        )
    return np.array([number[name] for name in named], np.int64)[values]


def relabelled(manifest: Manifest, labels: dict[str, np.ndarray]) -> Manifest:
    """The same videos with these labels, int64 (n,) by name, in place of their own."""
    refs = copy.copy(manifest.refs)
    refs.labels = np.stack(list(labels.values()), axis=1) if labels else np.zeros((len(refs), 0), np.int64)
    names = {name: classes for name, classes in manifest.class_names.items() if name in labels}
    return manifest._replace(refs=refs, label_names=tuple(labels), class_names=names)


def numbered_alike(held_out: Manifest, training: Manifest, origin: str) -> Manifest:
    """``held_out`` with the labels of ``training``, numbered alike: where both name their classes, by name.

    Raises:
        ConfigError: if it lacks one of them, has other classes, or numbers that are none.
    """
    numbers = {}
    for label in training.label_names:
        if names := training.class_names.get(label):
            numbers[label] = labels_of(held_out, Classes(label, names, named=True), origin)
        else:
            numbers[label] = held_out.labels[:, _column(held_out, label, origin)]
            _require_range(held_out, numbers[label], MOST_CLASSES, origin)
    return relabelled(held_out, numbers)


def why_not_a_class(manifest: Manifest, label: str, origin: str) -> str:
    """What keeps the numbers of a label from being classes that can be told apart; nothing where they can be."""
    values = manifest.labels[:, manifest.label_names.index(label)]
    try:
        _require_range(manifest, values, MOST_CLASSES, origin)
    except ConfigError as error:
        return str(error)
    return f"{origin}: label {label} shows a single class; a probe needs at least two" if np.ptp(values) == 0 else ""


def _column(manifest: Manifest, label: str | None, origin: str) -> int:
    names = manifest.label_names
    if not names:
        raise ConfigError(f"{origin}: has no labels; write 'path label' lines, or put the videos of each class into a folder")
    if label is None and len(names) > 1:
        raise ConfigError(f"{origin}: has the labels {', '.join(names)}; choose one: label={names[0]}")
    if label is not None and label not in names:
        near = difflib.get_close_matches(label, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"its labels are {', '.join(names)}"
        raise ConfigError(f"{origin}: has no label '{label}'; {hint}")
    return names.index(label) if label is not None else 0


def _require_range(manifest: Manifest, values: np.ndarray, count: int, origin: str) -> None:
    wrong = np.flatnonzero((values < 0) | (values >= count))
    if len(wrong):
        first = int(wrong[0])
        raise ConfigError(
            f"{origin}: {manifest.refs[first].where}: label {values[first]} is outside 0 to {count - 1} ({count} classes)"
            + (f"; {len(wrong)} videos have such labels" if len(wrong) > 1 else "")
        )
