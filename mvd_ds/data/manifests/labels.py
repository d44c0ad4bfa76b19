"""Labels and classes of manifests, and the match of two manifests that number their classes differently.

All comes from the manifests, nothing from a data set's name. Names are matched by name, digits by value, and plain numbers with
names only where nothing speaks against it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.manifests.numbering import (
    choose_label,
    few_names,
    folder_shift,
    require_evident,
    require_same_shift,
    shift_note,
    spelt_otherwise,
)
from mvd_ds.data.manifests.parsing import class_numbers
from mvd_ds.data.manifests.written_fields import refuse_written
from mvd_ds.files import ConfigError, one_line

UNNAMED = "label"
"""Name of a manifest's only label where nobody named it."""
MOST_CLASSES = 100_000
"""Most classes without names. A larger label is a fault, a video's id for example, and so many names would fill the memory."""

_LOOKED_AT = 50_000


class Classes(NamedTuple):
    """The classes of one label."""

    label: str
    """Name of the label."""
    names: tuple[str, ...]
    """Name of each class, class 0 first; numbers where the manifest does not name them."""
    named: bool
    """True if the manifest names them."""
    by_position: bool = False
    """True if plain numbers and names are matched by position without evidence: somebody has said so."""
    shift: int | None = 0
    """Difference of a class and the number of its videos' folder; None if folders bear no such numbers."""

    @property
    def counted(self) -> str:
        """``3 classes of label NAME``, or ``3 classes`` of the only label that nobody has named."""
        name = "" if self.label == "label" else f" of label {self.label}"
        return f"{len(self.names)} classes{name}"


def classes_of(
    manifests: Sequence[Manifest],
    origins: Sequence[str],
    label: str | None,
    allow_empty: bool = False,
    by_position: bool = False,
) -> tuple[Classes, np.ndarray]:
    """Return the classes of the training manifests, and the class of every video, int64 (n,), through all of them.

    The first manifest that names its classes decides what they are and their order.

    Args:
        manifests: manifests of the training videos, one or several.
        origins: their names in messages.
        label: which label; None: the only one.
        allow_empty: accept classes without a video.
        by_position: accept plain numbers for names without evidence.

    Raises:
        ConfigError: no or several labels to choose from, manifests of different labels or classes, a label outside its
            classes, a class without a video, or fewer than two classes.
    """
    columns = [_column(manifest, label, origin) for manifest, origin in zip(manifests, origins, strict=True)]
    chosen = manifests[0].label_names[columns[0]]
    named = next((names for m, c in zip(manifests, columns, strict=True) if (names := m.class_names.get(m.label_names[c]))), None)
    largest = max(int(manifest.labels[:, column].max()) for manifest, column in zip(manifests, columns, strict=True))
    names = named or tuple(str(number) for number in range(min(max(largest, 0) + 1, MOST_CLASSES)))
    classes = Classes(chosen, names, named is not None, by_position, None if named else _shift(manifests, columns))
    labels = np.concatenate([labels_of(*pair) for pair in zip(manifests, [classes] * len(manifests), origins, strict=True)])
    if len(names) < 2:
        raise ConfigError(f"{origins[0]}: label {chosen} has a single class; a class head needs at least two")
    _require_videos(classes, labels, ", ".join(origins), allow_empty)
    return classes, labels


def _shift(manifests: Sequence[Manifest], columns: Sequence[int]) -> int | None:
    """Return the difference of labels and numbers of folders in the first manifest whose folders bear numbers."""
    found = (folder_shift(_first_paths(m), m.labels[:, column]) for m, column in zip(manifests, columns, strict=True))
    return next((shift for shift in found if shift is not None), None)


def _first_paths(manifest: Manifest) -> list[str]:
    return [manifest.refs.path(index) for index in range(min(len(manifest.refs), _LOOKED_AT))]


def _require_videos(classes: Classes, labels: np.ndarray, origin: str, allow_empty: bool) -> None:
    count = len(classes.names)
    empty = np.flatnonzero(np.bincount(labels, minlength=count) == 0)
    if len(empty) and not allow_empty:
        shown = ", ".join(
            f"{number} ({one_line(classes.names[number], 60)})" if classes.named else str(number) for number in empty[:5]
        )
        raise ConfigError(
            f"{origin}: {len(empty)} of {classes.counted} have no video: {shown}"
            f"{', ...' * (len(empty) > 5)}; number classes from 0 without gaps, add videos, or set allow_empty_classes=true"
        )


def labels_of(manifest: Manifest, classes: Classes, origin: str) -> np.ndarray:
    """Return the class of every video of a manifest as ``classes`` numbers them, int64 (n,).

    Where both name their classes the names decide: a folder that lacks a class numbers the others differently. Names that are
    all digits are matched by value, with names or with plain numbers. Plain numbers and other names are matched by position if
    folders of videos bear the names of the classes that the numbers mean, or if ``classes`` accepts it without such evidence.

    Args:
        manifest: the videos.
        classes: the classes to number them by.
        origin: name of the manifest in messages.

    Raises:
        ConfigError: if the manifest has another label or other classes, or the two cannot be matched.
    """
    column, named = _matched_column(manifest, classes, origin)
    values = manifest.labels[:, column]
    theirs, ours = class_numbers(named or ()), class_numbers(classes.names)
    if not named and ours is not None and classes.shift is not None:
        require_same_shift(_first_paths(manifest), values, classes.shift, classes.by_position, origin)
    if not named and classes.named and ours is not None:
        return _by_value(manifest, values, ours, origin)
    if not named:
        _require_range(manifest, values, len(classes.names), origin)
        if classes.named:
            _require_evidence(manifest, values, classes, origin)
        return values
    _require_range(manifest, values, len(named), origin)
    if theirs is not None and ours is not None:
        return _by_value(manifest, np.array(theirs, np.int64)[values], ours, origin)
    if not classes.named:
        if len(named) != len(classes.names):
            raise ConfigError(
                f"{origin}: names {len(named)} classes ({few_names(named)}), but the {len(classes.names)} to match them with are "
                "plain numbers; give both lists the same '# classes:', or neither"
            )
        # Folders that gave the names are no evidence for what the plain numbers mean.
        require_evident(named, classes.by_position, origin)
        return values
    number = {name: index for index, name in enumerate(classes.names)}
    strange = [name for name in named if name not in number]
    if strange:
        raise ConfigError(
            f"{origin}: {len(strange)} of its {len(named)} classes are not among the {len(classes.names)} to match them with: "
            f"{few_names(strange)}; both need the same classes{spelt_otherwise(strange, classes.names)}"
        )
    return np.array([number[name] for name in named], np.int64)[values]


def numbering_note(manifest: Manifest, classes: Classes, origin: str) -> str:
    """Return a line that says how the classes of a manifest were matched with ``classes``, or nothing if they are the same.

    Args:
        manifest: videos whose labels ``labels_of`` accepts.
        classes: the classes that they were matched with.
        origin: name of the manifest.
    """
    column, named = _matched_column(manifest, classes, origin)
    if bool(named) != classes.named and class_numbers(named or classes.names) is None:
        names = named or classes.names
        pairs = ", ".join(f"{number} is '{one_line(name, 40)}'" for number, name in enumerate(names[:3]))
        return f"{origin}: its {'class names are' if named else 'numbers are taken for'} classes by position: {pairs}" + (
            ", ..." * (len(names) > 3)
        )
    values = manifest.labels[:, column]
    mapped = labels_of(manifest, classes, origin)
    changed = np.unique(np.stack([values, mapped], axis=1)[values != mapped], axis=0)[:3].tolist()
    if not len(changed):
        return shift_note(_first_paths(manifest), values, origin)
    pairs = ", ".join(f"its {old} is {new} ('{one_line(classes.names[new], 40)}')" for old, new in changed)
    return f"{origin}: its classes are numbered otherwise and are matched by {'name' if named else 'value'}: {pairs}, ..."


def _matched_column(manifest: Manifest, classes: Classes, origin: str) -> tuple[int, tuple[str, ...] | None]:
    """Return the column of the label that ``classes`` are of, and the names that the manifest has for its classes."""
    only_unnamed = manifest.label_names == (UNNAMED,) or (classes.label == UNNAMED and len(manifest.label_names) == 1)
    wanted = manifest.label_names[0] if only_unnamed else classes.label
    return _column(manifest, wanted, origin), manifest.class_names.get(wanted)


def _by_value(manifest: Manifest, values: np.ndarray, numbers: Sequence[int], origin: str) -> np.ndarray:
    """Return the class of each value, int64 (n,): the one whose name is that number."""
    order = np.argsort(numbers)
    known = np.asarray(numbers, np.int64)[order]
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    wrong = np.flatnonzero(known[places] != values)
    if len(wrong):
        first = int(wrong[0])
        raise ConfigError(
            f"{origin}: {one_line(manifest.refs[first].where)}: class {values[first]} is not among the {len(known)} classes "
            f"{few_names([str(number) for number in known.tolist()])}; both need the same classes"
        )
    return order[places].astype(np.int64)


def _require_evidence(manifest: Manifest, values: np.ndarray, classes: Classes, origin: str) -> None:
    """Refuse numbers for names where the folder of a video is the name of another class, or no folder names any class."""
    number = {name: index for index, name in enumerate(classes.names)}
    seen: set[int] = set()
    for index, value in enumerate(values[:_LOOKED_AT].tolist()):
        if value in seen:
            continue
        folders = manifest.refs.path(index).split(os.sep)[:-1]
        told = next((number[folder] for folder in reversed(folders) if folder in number), None)
        if told is not None and told != value:
            raise ConfigError(
                f"{origin}: {one_line(manifest.refs[index].where)}: is labelled {value}, which would be class "
                f"'{one_line(classes.names[value], 100)}', but lies in a folder '{one_line(classes.names[told], 100)}' (class "
                f"{told}); name the list's classes in a line '# classes: [...]'"
            )
        if told is not None:
            seen.add(value)
    if not seen:
        require_evident(classes.names, classes.by_position, origin)


def relabelled(manifest: Manifest, labels: dict[str, np.ndarray]) -> Manifest:
    """Return the same videos with these labels, int64 (n,) by name, in place of their own."""
    refs = copy.copy(manifest.refs)
    refs.labels = np.stack(list(labels.values()), axis=1) if labels else np.zeros((len(refs), 0), np.int64)
    names = {name: classes for name, classes in manifest.class_names.items() if name in labels}
    return manifest._replace(refs=refs, label_names=tuple(labels), class_names=names)


def numbered_alike(held_out: Manifest, training: Manifest, origin: str, by_position: bool = False) -> Manifest:
    """Return ``held_out`` with the labels of ``training``, numbered as there: where both name their classes, by name.

    Raises:
        ConfigError: if it lacks one of them, has other classes, or numbers that are none.
    """
    numbers = {}
    for label in training.label_names:
        if names := training.class_names.get(label):
            numbers[label] = labels_of(held_out, Classes(label, names, True, by_position), origin)
            continue
        values = held_out.labels[:, _column(held_out, label, origin)]
        _require_range(held_out, values, MOST_CLASSES, origin)
        shift = _shift([training], [training.label_names.index(label)])
        if shift is not None and label not in held_out.class_names:
            require_same_shift(_first_paths(held_out), values, shift, by_position, origin)
        if theirs := held_out.class_names.get(label):
            digits = class_numbers(theirs)
            largest = int(training.labels[:, training.label_names.index(label)].max())
            plain = Classes(label, tuple(map(str, range(min(largest + 1, MOST_CLASSES)))), False, by_position)
            values = labels_of(held_out, plain, origin) if digits is None else np.array(digits, np.int64)[values]
        numbers[label] = values
    alike = relabelled(held_out, numbers)
    return alike._replace(class_names={name: names for name, names in training.class_names.items() if name in numbers})


def why_not_a_class(manifest: Manifest, label: str, origin: str) -> str:
    """Return what keeps the numbers of a label from being classes that can be told apart; nothing if they can be."""
    values = manifest.labels[:, manifest.label_names.index(label)]
    try:
        _require_range(manifest, values, MOST_CLASSES, origin)
    except ConfigError as error:
        return str(error)
    return f"{origin}: label {label} shows a single class; a probe needs at least two" if np.ptp(values) == 0 else ""


def _column(manifest: Manifest, label: str | None, origin: str) -> int:
    names = manifest.label_names
    refuse_written(manifest, label, origin)
    remedy = "write 'path label' lines, or put the videos of each class into a folder"
    return names.index(choose_label(names, label, origin, remedy))


def _require_range(manifest: Manifest, values: np.ndarray, count: int, origin: str) -> None:
    wrong = np.flatnonzero((values < 0) | (values >= count))
    if len(wrong):
        first = int(wrong[0])
        raise ConfigError(
            f"{origin}: {one_line(manifest.refs[first].where)}: label {values[first]} is outside 0 to {count - 1} "
            f"({count} classes)" + (f"; {len(wrong)} videos have such labels" if len(wrong) > 1 else "")
        )
