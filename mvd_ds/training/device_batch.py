"""The micro batches that training takes, as types, and their way to the device.

The batches themselves are NamedTuples of the data room, which this room does not import.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from mvd_ds.config import ClipView


class MicroBatch(Protocol):
    """One micro batch of B clips, whatever it is trained for."""

    @property
    def views(self) -> dict[ClipView, Tensor]:
        """The views of all clips, uint8 (B, C, T, H, W)."""
        ...

    @property
    def flip(self) -> Tensor:
        """bool (B,), clips that are still to be mirrored."""
        ...

    @property
    def drop_path(self) -> Tensor:
        """float32 (B, K, blocks), uniforms in [0, 1) that the model compares with its rates."""
        ...

    @property
    def sample(self) -> Tensor:
        """int64 (B,), index in the manifest of the video of each clip."""
        ...

    @property
    def faults(self) -> list[str]:
        """``path: reason`` of every video that had to be replaced."""
        ...


class MaskedBatch(MicroBatch, Protocol):
    """A micro batch with K masks for each clip."""

    @property
    def visible(self) -> Tensor:
        """int64 (B, K, V), indices of the tokens that the student sees."""
        ...

    @property
    def masked(self) -> Tensor:
        """int64 (B, K, M), indices of the tokens that it predicts."""
        ...

    @property
    def labels(self) -> Tensor:
        """int64 (B, L); where a class head learns, the class of each clip alone, -1 for none."""
        ...

    @property
    def place(self) -> Tensor:
        """int64 (B,), place of each clip in the stream, of which a step takes the next ``batch.global``."""
        ...

    @property
    def teacher_uniforms(self) -> Tensor | None:
        """float32 (B, K, teachers), uniforms in [0, 1) that decide which teachers count; None: all do."""
        ...

    @property
    def cached(self) -> dict[str, Tensor] | None:
        """Targets of these views as they were stored, output -> (B, ...), with their scales; None: teachers are asked."""
        ...

    @property
    def captions(self) -> Tensor | None:
        """int64 (B, L), tokens of a caption of each clip; None without ``language``."""
        ...

    @property
    def counted(self) -> Tensor | None:
        """float32 (B,), factor of each clip in the losses of teachers that take no pictures; None: each counts once."""
        ...


class LabelledBatch(MicroBatch, Protocol):
    """A micro batch with the class of each clip, and how clips are mixed."""

    @property
    def label(self) -> Tensor:
        """int64 (B,)."""
        ...

    @property
    def partner(self) -> Tensor:
        """int64 (B,), the clip of this batch that each is mixed with."""
        ...

    @property
    def own_share(self) -> Tensor:
        """float32 (B,), share of the clip's own label."""
        ...

    @property
    def box(self) -> Tensor:
        """int64 (B, 6): frames, rows and columns that come from the partner."""
        ...

    @property
    def dropout(self) -> Tensor:
        """float32 (B, D), uniforms in [0, 1) for the pooled vector."""
        ...

    @property
    def place(self) -> Tensor:
        """int64 (B,), place of each clip in the stream, of which a step takes the next ``batch.global``."""
        ...


AnyBatch = TypeVar("AnyBatch", bound=MicroBatch)


def to_device(batch: AnyBatch, device: torch.device) -> AnyBatch:
    """Return ``batch``, a NamedTuple, with all its tensors on ``device``, where ``views`` are mirrored as ``flip`` says.

    Pinned tensors are copied without waiting. A batch that was moved already is left as it is.
    """
    fields = cast(Any, batch)
    moved = {name: _moved(value, device) for name, value in fields._asdict().items() if name != "flip"}
    moved["flip"] = batch.flip
    if batch.flip.any():
        moved["views"] = {size: mirror(view, batch.flip) for size, view in moved["views"].items()}
        moved["flip"] = torch.zeros_like(batch.flip)
    return cast(AnyBatch, fields._replace(**moved))


def mirror(view: Tensor, flip: Tensor) -> Tensor:
    """Return uint8 (B, C, T, H, W) with the clips of ``flip``, bool (B,) on the CPU, mirrored left to right."""
    if not flip.any():
        return view
    return torch.where(flip.to(view.device, non_blocking=True).view(-1, 1, 1, 1, 1), view.flip(-1), view)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    return value
