"""Labels that are several classes of a video, or a real number: read from manifests by those who know which of them is meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvd_ds.data.manifests.labels import MOST_CLASSES, UNNAMED, Classes
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.manifests.numbering import choose_label, few_names, spelt_otherwise
from mvd_ds.data.manifests.written_fields import fields_of, place_of, shown
from mvd_ds.data.manifests.written_labels import is_class, is_several
from mvd_ds.files import ConfigError


def label_of(manifest: Manifest, label: str | None, origin: str) -> str:
    """Return the name of a label of a manifest, whatever is written in its column.

    Args:
        manifest: the videos.
        label: its name; None: the only one.
        origin: name of the manifest in messages.

    Raises:
        ConfigError: if there is no such label, or there are several to choose from.
    """
    return choose_label(manifest.every_label, label, origin)


def matched_label(manifest: Manifest, label: str, origin: str) -> str:
    """Return the name that a label of one manifest has in another: its own, or where one of them names none, the only one.

    Raises:
        ConfigError: if the manifest has no such label.
    """
    names = manifest.every_label
    only_unnamed = names == (UNNAMED,) or (label == UNNAMED and len(names) == 1)
    return names[0] if only_unnamed else label_of(manifest, label, origin)


def reals_of(manifest: Manifest, label: str, origin: str) -> np.ndarray:
    """Return the real number of every video, float64 (n,).

    Raises:
        ConfigError: naming the first line that has something else.
    """
    found = np.empty(len(manifest.refs))
    for index, field in fields_of(manifest, label):
        if is_several(field):
            raise ConfigError(
                f"{place_of(manifest, index, origin)}: label '{shown(field)}' is no real number, such as 0.37; several classes "
                "are for task=multilabel"
            )
        found[index] = float(field)
    return found


def sets_of(manifest: Manifest, label: str, origin: str) -> list[tuple[int, ...]]:
    """Return the classes of every video as the manifest numbers them.

    Raises:
        ConfigError: naming the first line that has something else, or a class twice.
    """
    found = []
    for index, field in fields_of(manifest, label):
        if not is_several(field) and not is_class(field):
            raise ConfigError(
                f"{place_of(manifest, index, origin)}: label '{shown(field)}' is not a list of classes, such as 3,7,12; real "
                "numbers are for task=regression"
            )
        numbers = () if field == b"-" else tuple(map(int, field.split(b",")))
        twice = next((number for number in numbers if numbers.count(number) > 1), None)
        if twice is not None:
            raise ConfigError(f"{place_of(manifest, index, origin)}: label '{shown(field)}' names class {twice} twice")
        found.append(numbers)
    return found


def set_classes(
    manifests: Sequence[Manifest], origins: Sequence[str], label: str | None, allow_empty: bool, by_position: bool
) -> tuple[Classes, np.ndarray]:
    """Return the classes of a label that names several of a video, and which of them each video has, uint8 (n, classes).

    The first manifest that names its classes decides what they are; without names they are the numbers up to the largest.

    Raises:
        ConfigError: for a wrong line, a class outside the classes, or one that no video has.
    """
    names_of = [label_of(*each) for each in zip(manifests, [label] * len(manifests), origins, strict=True)]
    named = next((names for m, name in zip(manifests, names_of, strict=True) if (names := m.class_names.get(name))), None)
    sets = [sets_of(*each) for each in zip(manifests, names_of, origins, strict=True)]
    largest = max((number for listed in sets for numbers in listed for number in numbers), default=-1)
    names = named or tuple(map(str, range(min(max(largest, 0) + 1, MOST_CLASSES))))
    classes = Classes(names_of[0], names, named is not None, by_position)
    rows = [_indicators(*each, classes) for each in zip(manifests, names_of, sets, origins, strict=True)]
    found = np.concatenate(rows)
    empty = np.flatnonzero(~found.any(axis=0))
    if len(names) < 2:
        raise ConfigError(f"{origins[0]}: label {names_of[0]} has a single class; two at least are told apart")
    if len(empty) and not allow_empty:
        raise ConfigError(
            f"{', '.join(origins)}: {len(empty)} of {classes.counted} have no video: {few_names([names[i] for i in empty])}; "
            "number classes from 0 without gaps, add videos, or set allow_empty_classes=true"
        )
    return classes, found


def set_members(manifest: Manifest, classes: Classes, origin: str) -> np.ndarray:
    """Return which of ``classes`` each video of another manifest has, uint8 (n, classes); names are matched by name.

    Raises:
        ConfigError: for a wrong line, other classes, or names on one side alone where nobody said that positions agree.
    """
    label = matched_label(manifest, classes.label, origin)
    return _indicators(manifest, label, sets_of(manifest, label, origin), origin, classes)


def _indicators(manifest: Manifest, label: str, sets: Sequence[tuple[int, ...]], origin: str, classes: Classes) -> np.ndarray:
    """Return uint8 (n, classes) of the classes of each video, numbered as ``classes`` has them."""
    named = manifest.class_names.get(label)
    if bool(named) != classes.named and not classes.by_position:
        raise ConfigError(
            f"{origin}: {'names' if named else 'does not name'} its classes, and what it is matched with "
            f"{'does not' if named else 'does'}; give both the same '# classes:', or set data.classes_by_position=true"
        )
    names = named or classes.names
    number = {name: place for place, name in enumerate(classes.names)}
    strange = [name for name in names if named and classes.named and name not in number]
    if strange:
        raise ConfigError(
            f"{origin}: {len(strange)} of its {len(names)} classes are not among the {len(classes.names)} to match them with: "
            f"{few_names(strange)}{spelt_otherwise(strange, classes.names)}"
        )
    if bool(named) != classes.named and len(names) != len(classes.names):
        raise ConfigError(f"{origin}: has {len(names)} classes, and what it is matched with by position {len(classes.names)}")
    order = [number[name] for name in names] if named and classes.named else range(len(names))
    found = np.zeros((len(sets), len(classes.names)), np.uint8)
    for index, numbers in enumerate(sets):
        wrong = next((one for one in numbers if not 0 <= one < len(names)), None)
        if wrong is not None:
            place = place_of(manifest, index, origin)
            raise ConfigError(f"{place}: class {wrong} is outside 0 to {len(names) - 1} ({len(names)} classes)")
        found[index, [order[one] for one in numbers]] = 1
    return found
