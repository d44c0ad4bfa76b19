"""The tests of the sense of time in ``probes.json``, as a report reads them."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ToldShare(BaseModel):
    """A share of clips in ``probes.json`` with its 95 % interval."""

    top1: float
    interval: tuple[float, float]


class OrderResult(BaseModel):
    """The test of one probe with clips that are played in one way."""

    told: ToldShare
    """Share of clips, as they are and played so, that are told apart rightly."""
    labels: dict[str, ToldShare] = Field(default_factory=dict)
    """Top-1 on clips played so, by label."""
