"""The part that clips of pictures have in losses: none in those of teachers that take no pictures, where a source says so."""

from __future__ import annotations

import numpy as np

from mvd_ds.config import TrainingRecipe
from mvd_ds.data.manifests.mixture import VideoOrder
from mvd_ds.data.workers.shared_memory import TensorLayout


class PictureSources:
    """The sources of a recipe with ``images: image_teachers``, and what each clip counts beside them."""

    def __init__(self, recipe: TrainingRecipe) -> None:
        """Keep which sources these are."""
        self._are = np.array([source.images == "image_teachers" for source in recipe.data.sources], bool)
        self._clips_per_step, self._clips_per_video = recipe.batch.global_, recipe.data.clips_per_video
        self._step, self._factor = (-1, -1), 1.0  # of the last clip: those of a step have one factor

    @property
    def layout(self) -> dict[str, TensorLayout]:
        """The array that a batch has for it."""
        return {"counted": TensorLayout((), "float32")} if self._are.any() else {}

    def arrays(self, order: VideoOrder, epoch: int, position: int, video: int) -> dict[str, np.ndarray]:
        """Return its value for the clip at ``position`` of ``epoch``, which is of ``video``.

        It is the factor with which a mean over all clips of a step becomes that of those that are no pictures. Replacements are
        of the same source, so that the order alone says how many these are, on every rank and after every restart.
        """
        if not self._are.any():
            return {}
        if self._are[order.source(video)]:
            return {"counted": np.zeros((), np.float32)}
        step = epoch, position // self._clips_per_step
        if step != self._step:
            self._step, self._factor = step, self._factor_in(order, *step)
        return {"counted": np.array(self._factor, np.float32)}

    def _factor_in(self, order: VideoOrder, epoch: int, step: int) -> float:
        """Return the clips of a step over those that are no pictures, of which there is one at least."""
        first, last = (number * self._clips_per_step // self._clips_per_video for number in (step, step + 1))
        shown = order.shown_between(epoch, first, last)
        return float(shown.sum() / shown[~self._are].sum())
