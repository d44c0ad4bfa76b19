"""Which label of a manifest is learnt, and the names of its classes: all from the manifest, nothing from a data set's name."""

from __future__ import annotations

import difflib
from typing import NamedTuple

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.manifest import Manifest

UNNAMED = "label"
"""What a manifest's only label is called where nobody named it."""


class Classes(NamedTuple):
    """The classes of one label."""

    label: str
    """Name of the label."""
    names: tuple[str, ...]
    """One for each class, class 0 first; numbers where the manifest does not name them."""
    named: bool
    """Whether the manifest names them."""


def classes_of(manifest: Manifest, label: str | None, origin: str, allow_empty: bool = False) -> Classes:
    """The classes of a training manifest.

    Args:
        manifest: of the training videos.
        label: which label; None: its only one.
        origin: names the manifest in messages.
        allow_empty: accept classes without a video.

    Raises:
        ConfigError: no or several labels to choose from, a label outside its classes, a class without a video, fewer than two.
    """
    chosen = manifest.label_names[_column(manifest, label, origin)]
    named = manifest.class_names.get(chosen)
    values = manifest.labels[:, manifest.label_names.index(chosen)]
    count = len(named) if named else int(values.max()) + 1
    _require_range(manifest, values, count, origin)
    names = named or tuple(str(number) for number in range(count))
    if count < 2:
        raise ConfigError(f"{origin}: label {chosen} has a single class; fine-tuning needs at least two")
    empty = np.flatnonzero(np.bincount(values, minlength=count) == 0)
    if len(empty) and not allow_empty:
        shown = ", ".join(f"{number} ({names[number]})" if named else str(number) for number in empty[:5])
        raise ConfigError(
            f"{origin}: {len(empty)} of {count} classes of label {chosen} have no video: {shown}{', ...' * (len(empty) > 5)}; "
            "number classes from 0 without gaps, add videos, or set allow_empty_classes=true"
        )
    return Classes(chosen, names, named is not None)


def labels_of(manifest: Manifest, classes: Classes, origin: str) -> np.ndarray:
    """int64 (n,): the class of every video of another manifest, as ``classes`` numbers them.

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
