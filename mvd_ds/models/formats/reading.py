"""The reading of a file's tensors into a state dict of ours: every name is accounted for, every fault named."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, Grid
from mvd_ds.files import one_line
from mvd_ds.models.embed import POSITION_TABLES
from mvd_ds.models.formats.processor import Processor
from mvd_ds.models.formats.rules import FrozenTable, Layout, join_forms

#: Largest difference between a frozen table in a file and its formula that is rounding: some files hold fp16.
TABLE_TOLERANCE = 2e-3
NAMES_SHOWN = 6
QUERY_VALUE_BIAS = re.compile(r"(encoder|decoders\.\w+)\.blocks\.\d+\.attention\.qkv\.[qv]_bias")
OTHER_BLOCK_BIAS = re.compile(r"(encoder|decoders\.\w+)\.blocks\.\d+\.(attention\.projection|mlp\.\w+)\.bias")


class TensorRow(NamedTuple):
    """One line of the table of what went where.

    Attributes:
        theirs: name in the file.
        shape: shape in the file.
        ours: name here; None: ignored.
        reason: why it is ignored, or how it changed.
    """

    theirs: str
    shape: tuple[int, ...]
    ours: str | None
    reason: str = ""


@dataclass(repr=False)
class Checkpoint:
    """A file that was read: its tensors under our names, and everything it says about the network.

    Attributes:
        layout: how it names its tensors.
        origin: file or folder, for messages.
        state: state dict of the model here, types as stored.
        rows: what went where.
        notes: what else is worth saying.
        stated: settings that are written beside the tensors: ``encoder``, ``decoder``, ``classifier``, ``clip``.
        grids: (t, h, w) of the position tables in the file, by the part that they serve.
        recipe: recipe that it was trained by, in our own formats; else None.
        processor: pixels that a folder of others was trained on, as far as it says.
    """

    layout: Layout
    origin: str
    state: dict[str, Tensor]
    rows: list[TensorRow]
    notes: list[str] = field(default_factory=list)
    stated: dict[str, dict[str, Any]] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    recipe: Any = None
    processor: Processor | None = None

    def __repr__(self) -> str:
        return f"Checkpoint({self.layout.name}, {len(self.state)} tensors, {one_line(self.origin, 100)})"

    @property
    def decoder_names(self) -> tuple[str, ...]:
        """Names of the decoders in it, in the order of the file."""
        names = (name.split(".")[1] for name in self.state if name.startswith("decoders."))
        return tuple(dict.fromkeys(names))


def read_tensors(layout: Layout, tensors: Mapping[str, Tensor], origin: str) -> Checkpoint:
    """Return the tensors of a file in a layout.

    Raises:
        ConfigError: if a name has no place, parts are missing, or a number is not finite.
    """
    checkpoint = Checkpoint(layout, origin, {}, [])
    pieces: dict[str, dict[str, Tensor]] = {}
    faults: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        fault = _place(checkpoint, pieces, name, tensor)
        if fault:
            faults.setdefault(fault[0], []).append(fault[1])
    for ours, forms in pieces.items():
        try:
            checkpoint.state[ours] = join_forms(forms)
        except (ValueError, RuntimeError) as error:
            faults.setdefault("incomplete", []).append(f"{ours} ({error})")
    if faults:
        listed = "; ".join(f"{len(names)} {kind}: {shorten(names)}" for kind, names in faults.items())
        raise ConfigError(f"{origin}: is not a whole file of {layout.title} ('{layout.name}'): {listed}")
    _learn_all(checkpoint, tensors)
    checkpoint.notes += _suspicious_zeros(checkpoint)
    return checkpoint


def _place(checkpoint: Checkpoint, pieces: dict[str, dict[str, Tensor]], name: str, tensor: Tensor) -> tuple[str, str] | None:
    """Put one tensor where it belongs, and return (kind, description) of its fault, if it has one."""
    layout, shape = checkpoint.layout, tuple(tensor.shape)
    table = layout.table(name)
    if not is_finite(tensor):
        return "not finite", name
    if table is not None:
        return _check_table(checkpoint, table, tensor)
    target = layout.target(name)
    if target is None:
        reason = layout.reason_to_ignore(name)
        if reason is None:
            return "unexpected", name
        checkpoint.rows.append(TensorRow(name, shape, None, reason))
        return None
    if not tensor.is_floating_point():
        return "not floating point numbers", f"{name} ({tensor.dtype})"
    ours, form = target
    known = pieces.setdefault(ours, {})
    if form in known and not torch.equal(known[form], tensor):
        return "twice with different values", f"{name} (also {next(row.theirs for row in checkpoint.rows if row.ours == ours)})"
    if form == "frame" and tensor.ndim != 4:
        return "of another shape", f"{name} {shape} instead of 4 axes"
    known[form] = tensor
    checkpoint.rows.append(
        TensorRow(name, shape, ours, {"whole": "", "frame": "one frame deep", "added": "added"}.get(form, f"rows of the {form}"))
    )
    return None


def _check_table(checkpoint: Checkpoint, table: FrozenTable, tensor: Tensor) -> tuple[str, str] | None:
    shape = tuple(tensor.shape)
    if tensor.ndim != 3 or len(tensor) != 1:
        return "of another shape", f"{table.theirs} {shape} instead of (1, N, D)"
    stored, width, nearest = tensor[0].double().numpy(), tensor.shape[2], np.inf
    for grid in _possible_grids(table, len(stored) - table.has_cls):
        expected = table_rows(table, grid, width)
        if expected.shape != stored.shape:
            break
        nearest = min(nearest, float(np.abs(stored - expected).max()))
        if nearest <= TABLE_TOLERANCE:
            checkpoint.grids[table.of] = grid
            reason = f"fixed table of positions on grid {grid}, computed here for the grid at hand (differs by {nearest:.0e})"
            checkpoint.rows.append(TensorRow(table.theirs, shape, None, reason))
            return None
    checkpoint.notes.append(f"{table.theirs} is not the fixed table of {checkpoint.layout.title}: read as learned positions")
    _train(checkpoint, table, tensor[0])
    checkpoint.rows.append(TensorRow(table.theirs, shape, f"{table.prefix}position.table", "learned positions"))
    return None


def _train(checkpoint: Checkpoint, table: FrozenTable, rows: Tensor) -> None:
    """Keep ([1 +] N, D) rows of a table as weights."""
    checkpoint.state[f"{table.prefix}position.table"] = rows[int(table.has_cls) :].clone()
    if table.has_cls:
        checkpoint.state[f"{table.prefix}position.cls"] = rows[:1].clone()


def _learn_all(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    """Turn all tables into weights if one is learned: encoder and decoders here have one kind of position."""
    learned = [name for name in checkpoint.state if name.endswith("position.table")]
    if not learned:
        return
    count = len(checkpoint.state[learned[0]])
    for table in checkpoint.layout.tables:
        norm = checkpoint.state.get(f"{table.prefix}norm.weight")
        if f"{table.prefix}position.table" in learned or norm is None:
            continue
        rows = tensors[table.theirs][0] if table.theirs in tensors else None
        if rows is None:
            rows = torch.from_numpy(table_rows(table, (count, 1, 1), len(norm)).astype(np.float32))
        _train(checkpoint, table, rows)


def table_rows(table: FrozenTable, grid: Grid, width: int) -> np.ndarray:
    """Return the rows ([1 +] N, D), fp64, of a frozen table on a grid."""
    rows = POSITION_TABLES[table.kind](grid, width)
    return np.concatenate((np.zeros((1, width)), rows)) if table.has_cls else rows


def _possible_grids(table: FrozenTable, tokens: int) -> Iterator[Grid]:
    """Yield the grids of ``tokens`` tokens with square frames, the fewest slots first; one for an image."""
    if table.kind == "sinusoid1d":
        yield tokens, 1, 1  # the flat index is all it sees
        return
    for slots in range(1, tokens + 1 if table.kind == "sincos3d" else 2):
        side = math.isqrt(tokens // slots)
        if slots * side * side == tokens:
            yield slots, side, side


def _suspicious_zeros(checkpoint: Checkpoint) -> list[str]:
    """Return a note if all q and v biases are zero beside others that are not, as a lossy conversion leaves them.

    Raises:
        ConfigError: if the layout is one whose readers are known to lose them.
    """
    parts: dict[str, list[list[bool]]] = {}
    for name, tensor in checkpoint.state.items():
        for kind, expression in enumerate((QUERY_VALUE_BIAS, OTHER_BLOCK_BIAS)):
            match = expression.fullmatch(name)
            if match:
                parts.setdefault(match.group(1), [[], []])[kind].append(bool(tensor.any()))
    lost = [part for part, (own, other) in parts.items() if own and not any(own) and any(other)]
    if not lost:
        return []
    text = (
        f"all q and v biases of {', '.join(lost)} are zero and its other biases are not: what a conversion that lost them "
        "leaves (some releases of transformers 5)"
    )
    if checkpoint.layout.name.startswith("hf_"):
        raise ConfigError(f"{checkpoint.origin}: {text}; take the file it was made from")
    return [text]


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers are finite: a sum in fp64 cannot overflow and takes a single pass."""
    return not tensor.is_floating_point() or math.isfinite(tensor.sum(dtype=torch.float64).item())


def shorten(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def table_lines(rows: list[TensorRow]) -> list[str]:
    """Return the table of what went where: numbered blocks of the same shapes share a line."""
    merged: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        target = row.ours or "-"
        key = (re.sub(r"(?<=\.)\d+(?=\.)", "#", row.theirs), str(row.shape), re.sub(r"(?<=\.)\d+(?=\.)", "#", target))
        merged.setdefault(key, []).append(row.reason)
    lines = []
    for (theirs, shape, ours), reasons in merged.items():
        count = f" x{len(reasons)}" if len(reasons) > 1 else ""
        lines.append(
            f"{theirs}{count}  {shape}  ->  {ours if ours != '-' else 'ignored'}{': ' if reasons[0] else ''}{reasons[0]}"
        )
    return lines
