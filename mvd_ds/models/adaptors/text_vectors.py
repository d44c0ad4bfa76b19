"""Text vectors: what a teacher's text tower says of each class, computed elsewhere and kept in a file.

The file is a safetensors file with one tensor (classes, D), a row for each class, whatever its name is. Its metadata has
``classes``, a JSON list of the names in the order of the rows, and may have ``scale``, the factor of cosines before the softmax.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.files import one_line
from mvd_ds.models.formats.containers import seems_to_be
from mvd_ds.models.formats.foreign import LARGEST_CLASSES, require_file

#: Factor of the cosine where a file states none. It orders no classes; it says how sure an answer is. Source: CLIP, at most 100.
SCALE = 100.0


class TextVectors(NamedTuple):
    """The vector of each class in the space of a teacher."""

    classes: tuple[str, ...]
    """Name of each row."""
    vectors: Tensor
    """(classes, D) fp32, every row of length 1."""
    scale: float
    """Factor of the cosine before the softmax."""


def read_text_vectors(path: str | Path) -> TextVectors:
    """Return the text vectors of a file.

    Raises:
        ConfigError: if it is no such file, or rows and names do not fit each other.
    """
    path = Path(path)
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        told = seems_to_be(path) or one_line(error, 200)
        raise ConfigError(f"{one_line(path)}: text vectors are a safetensors file, and this is none: {told}") from None
    vectors = _vectors(tensors, path)
    classes = _classes(facts, len(vectors), path)
    return TextVectors(classes, torch.nn.functional.normalize(vectors, dim=-1), _scale(facts, path))


def _vectors(tensors: dict[str, Tensor], path: Path) -> Tensor:
    shapes = ", ".join(f"{one_line(name, 40)} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    found = next(iter(tensors.values())) if len(tensors) == 1 else None
    if found is None or found.ndim != 2 or not found.is_floating_point() or not 0 < len(found) <= LARGEST_CLASSES:
        raise ConfigError(
            f"{one_line(path)}: text vectors are one tensor (classes, D) of floats; it holds {shapes[:200] or 'nothing'}"
        )
    lengths = found.float().norm(dim=-1)
    wrong = (~(torch.isfinite(lengths) & (lengths > 0))).nonzero().flatten().tolist()
    if wrong:
        raise ConfigError(f"{one_line(path)}: row {wrong[0]} has length {float(lengths[wrong[0]]):g}; no text is like that")
    return found.float()


def _classes(facts: dict[str, str], rows: int, path: Path) -> tuple[str, ...]:
    remedy = "save_file({'text': vectors}, FILE, {'classes': json.dumps(names)})"
    if "classes" not in facts:
        raise ConfigError(f"{one_line(path)}: its metadata has no list of classes; write it by {remedy}")
    try:
        names = json.loads(facts["classes"])
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{one_line(path)}: classes: it takes a JSON list of names, got {one_line(facts['classes'], 40)}; use {remedy}"
        )
    if len(names) != rows:
        raise ConfigError(f"{one_line(path)}: {len(names)} names of classes for {rows} rows")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ConfigError(f"{one_line(path)}: class '{one_line(twice, 40)}' has two rows; average them")
    return tuple(names)


def _scale(facts: dict[str, str], path: Path) -> float:
    try:
        scale = float(facts.get("scale", SCALE))
    except ValueError:
        scale = math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"{one_line(path)}: scale: it takes a number above 0, got {one_line(facts['scale'], 40)}")
    return scale
