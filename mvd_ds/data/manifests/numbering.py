"""Evidence that names of classes and of folders give about the numbers in a list."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from mvd_ds.data.manifests.parsing import class_numbers
from mvd_ds.files import ConfigError, did_you_mean, one_line


def few_names(names: Sequence[str]) -> str:
    """Return the first five of ``names`` for a message."""
    return ", ".join(one_line(name, 60) for name in names[:5]) + ", ..." * (len(names) > 5)


def choose_label(names: Sequence[str], label: str | None, origin: str, remedy: str = "write 'path label' lines") -> str:
    """Return the label that is meant among those of a manifest: the one that is named, or else the only one.

    Args:
        names: the manifest's labels.
        label: name of the wanted one; None: the only one.
        origin: name of the manifest in messages.
        remedy: said of a manifest that has none.

    Raises:
        ConfigError: if there is no such label, or there are several to choose from.
    """
    if not names:
        raise ConfigError(f"{origin}: has no labels; {remedy}")
    if label is None and len(names) > 1:
        raise ConfigError(f"{origin}: has the labels {', '.join(names)}; choose one: label={names[0]}")
    if label is not None and label not in names:
        hint = did_you_mean(label, names, f"its labels are {', '.join(names)}")
        raise ConfigError(f"{origin}: has no label '{label}'; {hint}")
    return names[0] if label is None else label


def require_same_classes(names: Sequence[str], learnt: Sequence[str], origin: str) -> None:
    """Refuse a classifier whose outputs stand for other classes, or for the same in another order.

    Digits are compared by value; plain numbers say nothing about names, so that only their count is compared.

    Args:
        names: the classes of the classifier, output 0 first; as many as there are classes.
        learnt: the classes that are learnt.
        origin: name of the classifier in messages.

    Raises:
        ConfigError: naming the first class that differs.
    """
    theirs, ours = class_numbers(names), class_numbers(learnt)
    if (theirs is None) != (ours is None):
        return
    differing = next((i for i, (a, b) in enumerate(zip(theirs or names, ours or learnt, strict=False)) if a != b), None)
    if differing is not None:
        raise ConfigError(
            f"{origin}: its class {differing} is '{one_line(names[differing], 60)}', the manifest's is "
            f"'{one_line(learnt[differing], 60)}'"
        )


def require_one_spelling(names: Sequence[str], origin: str) -> None:
    """Refuse two class names that read alike and differ in how their accents are encoded: they would be two classes.

    Raises:
        ConfigError: naming the pair.
    """
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise ConfigError(
                f"{origin}: the classes {other!a} and {name!a} read alike ('{one_line(name, 60)}'): their accents are "
                "encoded in two ways, NFC and NFD; write both alike, so that they are one class"
            )


def spelt_otherwise(strange: Sequence[str], names: Sequence[str]) -> str:
    """Return a hint if one of the ``strange`` names reads like one of ``names``, with its accents encoded otherwise."""
    known = {unicodedata.normalize("NFC", name): name for name in names}
    for name in strange:
        if (meant := known.get(unicodedata.normalize("NFC", name))) is not None:
            return f"; {name!a} reads like {meant!a}, but one is NFC and the other NFD: write both alike"
    return ""


def require_evident(names: Sequence[str], by_position: bool, origin: str) -> None:
    """Refuse to match plain numbers with ``names`` by position unless somebody has said that they stand in this order.

    Args:
        names: class names, class 0 first.
        by_position: whether somebody has said so.
        origin: name of the list in messages.

    Raises:
        ConfigError: if nobody has.
    """
    if by_position:
        return
    require_one_order(names, origin)
    raise ConfigError(
        f"{origin}: one side has plain numbers and the other the names {few_names(names)}, and nothing shows which number is "
        "which name; write a line '# classes: [...]' into the list of numbers, or, if they stand in this order, set "
        "data.classes_by_position=true"
    )


def require_one_order(names: Sequence[str], origin: str) -> None:
    """Refuse to match plain numbers by position with names that hold other numbers: is 2 'class_10' or 'class_2'?

    Args:
        names: class names, class 0 first.
        origin: name of the list in messages.

    Raises:
        ConfigError: if every name holds a number, all different, and they are not 0, 1, ... in this order.
    """
    found = [re.search("[0-9]{1,18}", name) for name in names]
    numbers = [int(match[0]) for match in found if match]
    wrong = next((place for place, number in enumerate(numbers) if place != number), None)
    if wrong is not None and len(set(numbers)) == len(names):
        raise ConfigError(
            f"{origin}: plain numbers cannot be matched with names that hold other numbers: {wrong} would be class "
            f"'{one_line(names[wrong], 60)}' by position; name the list's classes in a line '# classes: [...]'"
        )


def folder_shift(paths: Sequence[str], values: np.ndarray) -> int | None:
    """Return the number by which every label exceeds the number of its video's folder; None if there is no such number.

    Args:
        paths: the first k videos.
        values: int64 (n,), labels of all videos.
    """
    folders = [os.path.basename(os.path.dirname(path)) for path in paths]
    if len(set(folders)) < 2 or class_numbers(sorted(set(folders))) is None:
        return None
    shifts = set((values[: len(folders)] - [int(folder) for folder in folders]).tolist())
    return shifts.pop() if len(shifts) == 1 else None


def require_same_shift(paths: Sequence[str], values: np.ndarray, shift: int, by_position: bool, origin: str) -> None:
    """Refuse plain numbers that stand otherwise to the numbers of the folders than those of the classes do: off by one.

    Args:
        paths: the first k videos.
        values: int64 (n,), labels of all videos.
        shift: difference of a class and the number of its videos' folder where the classes come from.
        by_position: whether somebody has said that the numbers are right.
        origin: name of the list in messages.

    Raises:
        ConfigError: if they do, and nobody has said so.
    """
    found = folder_shift(paths, values)
    if by_position or found is None or found == shift:
        return
    folder = os.path.basename(os.path.dirname(paths[0]))
    raise ConfigError(
        f"{origin}: the video in folder '{folder}' is labelled {values[0]}, and class {values[0]} is that of folder "
        f"'{values[0] - shift}': all its labels are off by {abs(found - shift)}; correct the list, or set "
        "data.classes_by_position=true if its numbers are right"
    )


def shift_note(paths: Sequence[str], values: np.ndarray, origin: str) -> str:
    """Return a line if every label is the number of its video's folder plus the same number, which is not 0; else nothing."""
    if not folder_shift(paths, values):
        return ""
    folder = os.path.basename(os.path.dirname(paths[0]))
    return f"{origin}: labels differ from the numbers of the folders: the video in folder '{folder}' is labelled {values[0]}"
