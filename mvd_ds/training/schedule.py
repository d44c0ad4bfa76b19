"""Learning rate by optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mvd_ds.config import LearningRecipe


@dataclass(frozen=True)
class Schedule:
    """A learning rate with a linear warm-up from 0 to ``peak``, then a cosine to ``final``.

    Source: MVD 1.5. The warm-up includes both ends (step 0 has rate 0, step ``warmup - 1`` has ``peak``), as published.
    """

    peak: float
    final: float
    warmup: int
    total: int

    def __call__(self, step: int) -> float:
        """Learning rate of optimizer step ``step`` (from 0)."""
        if step < self.warmup:
            return self.peak * step / max(self.warmup - 1, 1)
        progress = (step - self.warmup) / max(self.total - self.warmup, 1)
        return self.final + 0.5 * (self.peak - self.final) * (1 + math.cos(math.pi * progress))


def build_schedule(recipe: LearningRecipe, steps_per_epoch: int) -> Schedule:
    """Return the schedule of a recipe whose epoch has ``steps_per_epoch`` optimizer steps."""
    peak, final = recipe.learning_rate
    return Schedule(peak, final, recipe.schedule.warmup(steps_per_epoch), recipe.schedule.total_steps(steps_per_epoch))
