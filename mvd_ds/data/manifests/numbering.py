"""Evidence that names of classes and of folders give about the numbers in a list."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np

from mvd_ds.data.manifests.parsing import class_numbers
from mvd_ds.files import ConfigError, one_line


def few_names(names: Sequence[str]) -> str:
    """Return the first five of ``names`` for a message."""
    return ", ".join(one_line(name, 60) for name in names[:5]) + ", ..." * (len(names) > 5)


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


def shift_note(paths: Sequence[str], values: np.ndarray, origin: str) -> str:
    """Return a line if every label is the number of its video's folder plus the same number, which is not 0; else nothing.

    Args:
        paths: the first k videos.
        values: int64 (n,), labels of all videos.
        origin: name of the list.
    """
    folders = [os.path.basename(os.path.dirname(path)) for path in paths]
    if class_numbers(sorted(set(folders))) is None or len(set(folders)) < 2:
        return ""
    shifts = set((values[: len(folders)] - [int(folder) for folder in folders]).tolist())
    if len(shifts) > 1 or shifts == {0}:
        return ""
    return f"{origin}: labels differ from the numbers of the folders: the video in folder '{folders[0]}' is labelled {values[0]}"
