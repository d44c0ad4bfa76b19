"""The fixed views that a training shows, one for each clip and epoch, and the targets that were kept of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ATTENTION, TrainingRecipe
from mvd_ds.data.cached.files import CachedRows
from mvd_ds.data.cached.index import NUMPY_TYPES
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.workers.shared_memory import TensorLayout

_CACHED = "cached_"
"""Beginning of the names of arrays with cached targets."""
Place = tuple[int, int]
"""Epoch, and position in it."""


def fixed_view(seed: int, clip: int, crop: int) -> np.random.Generator:
    """Return what draws crop ``crop`` of clip ``video * clips_per_video + c``: its moment and its box, in any epoch."""
    return keyed_generator(seed, "view", crop, clip)


class FixedViews:
    """The choice of the view that is shown of a clip, and its targets where a cache has them. It travels to the workers.

    Args:
        recipe: the run, with ``targets.fixed_crops``.

    Raises:
        ConfigError: if ``targets.cache`` is not whole.
    """

    def __init__(self, recipe: TrainingRecipe) -> None:
        assert recipe.targets.fixed_crops is not None
        self._seed, self._crops, self._flip = recipe.run.seed, recipe.targets.fixed_crops, recipe.data.clip.flip
        self._clips_per_video, self._is_mixture = recipe.data.clips_per_video, bool(recipe.data.sources)
        self._cached = CachedRows(recipe.targets.cache) if recipe.targets.cache is not None else None
        outputs = {} if self._cached is None else self._cached.index.outputs
        wanted = {*recipe.outputs, ATTENTION} if recipe.masking.teacher is not None else {*recipe.outputs}
        chosen = {name: output for name, output in outputs.items() if name in wanted}
        self._arrays = {key: array for name, output in chosen.items() for key, array in output.arrays(name).items()}
        self.layout = {
            _CACHED + name: TensorLayout(array.shape, NUMPY_TYPES[array.store]) for name, array in self._arrays.items()
        }
        """Layout of the arrays with cached targets."""

    def generator(self, video: int, place: Place) -> np.random.Generator:
        """Return what draws the view of a video that is shown at a place.

        Raises:
            DecodeError: if the cache has no targets of the video.
        """
        if self._cached is not None and (reason := self._cached.fault(video)):
            raise DecodeError(f"targets.cache has no targets of it: {reason}")
        return fixed_view(self._seed, self._clip(video, place), self._crop(place))

    def fill(self, rows: dict[str, np.ndarray], places: Sequence[Place]) -> None:
        """Draw whether each clip is mirrored, and read its cached targets.

        Args:
            rows: arrays of a batch with ``sample`` filled; ``flip`` and those of ``layout`` are written.
            places: epoch and position of each row.

        Raises:
            ConfigError: if the cache cannot be read.
        """
        for row, place in enumerate(places):
            flip = bool(keyed_generator(self._seed, "flip", *place).random() < self._flip)
            rows["flip"][row] = flip
            if self._cached is not None:
                into = {name: rows[_CACHED + name][row] for name in self._arrays}
                self._cached.read(self._clip(int(rows["sample"][row]), place), self._crop(place), flip, into)

    def targets(self, arrays: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the cached targets among the ``arrays`` of a batch, by name; None without a cache."""
        if self._cached is None:
            return None
        found = {name: arrays[_CACHED + name] for name in self._arrays}
        is_bf16 = {name: array.store == "bf16" for name, array in self._arrays.items()}
        return {name: bits.view(torch.bfloat16) if is_bf16[name] else bits for name, bits in found.items()}

    def _clip(self, video: int, place: Place) -> int:
        return video * self._clips_per_video + place[1] % self._clips_per_video

    def _crop(self, place: Place) -> int:
        """Return the crop that is shown: epoch after epoch the next; of a mixture, whose videos have no common epochs, any."""
        if self._is_mixture:
            return int(keyed_generator(self._seed, "crop", *place).integers(self._crops))
        return place[0] % self._crops
