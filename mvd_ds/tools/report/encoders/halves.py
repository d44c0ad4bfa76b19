"""The part of a report that tells of base and new classes."""

from __future__ import annotations

from pydantic import BaseModel, Field


class BothHalves(BaseModel, allow_inf_nan=False):
    """The accuracy of a model on base and on new classes, and the harmonic mean of both."""

    base: float
    new: float | None = None
    harmonic: float | None = None
    interval: tuple[float, float] | None = None
    """95 % interval of the harmonic mean."""
    why: str = ""
    """Reason where there is no answer for new classes."""


class Halves(BaseModel, allow_inf_nan=False):
    """The halves of a label's classes, and what models make of both."""

    pick: str = ""
    classes: dict[str, list[str]] = Field(default_factory=dict)
    """Names of base and new classes; none where each training drew its own."""
    models: dict[str, BothHalves] = Field(default_factory=dict)

    def renamed(self, prefix: str) -> Halves:
        """Return the same results with ``prefix`` before every model."""
        return self.model_copy(update={"models": {prefix + name: found for name, found in self.models.items()}})
