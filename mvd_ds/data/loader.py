"""The loader of one rank: the clips of each step, in order, and the quarantine of videos that crash a decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from mvd_ds.config import ConfigError, LearningRecipe, TrainingRecipe
from mvd_ds.data.dataset import ClipDataset, KeyedClips
from mvd_ds.data.manifests.mixture import read_mixture
from mvd_ds.data.workers.quarantine import Quarantine
from mvd_ds.data.workers.stream import Filled, filled_batches
from mvd_ds.data.workers.workers import start_server

_AHEAD = 2
"""Micro batches that the consumer itself takes ahead, to bring them to the device."""


class ClipLoader:
    """The loader of one rank's clips. Step s of G clips uses places [s*G, (s+1)*G); a partial step does not exist."""

    def __init__(
        self,
        recipe: LearningRecipe,
        drop_path_blocks: int,
        rank: int,
        world: int,
        dataset: KeyedClips | None = None,
        pin: bool = False,
    ) -> None:
        """Prepare the stream of clips; workers start with the first batch.

        Args:
            recipe: the training run.
            drop_path_blocks: uniforms per mask that the model wants.
            rank: number of this process.
            world: number of processes.
            dataset: the clips; None: those of the manifests of a masked-prediction recipe, with their masks.
            pin: the batches go to a GPU.

        Raises:
            ConfigError: for a faulty manifest, or fewer clips than one global batch.
        """
        data, batch = recipe.data, recipe.batch
        if dataset is None:
            assert isinstance(recipe, TrainingRecipe)
            dataset = ClipDataset(recipe, read_mixture(data), drop_path_blocks)
        self._data, self._batch, self._rank, self._world, self._pin = data, batch, rank, world, pin
        self._accumulation = batch.accumulation_steps(world)
        self._dataset = dataset
        self.clips_in_manifest = len(dataset)
        """Clips of one epoch: videos x clips_per_video."""
        self.steps_per_epoch = self.clips_in_manifest // batch.global_
        if not self.steps_per_epoch:
            raise ConfigError(
                f"{data.manifest}: {len(dataset.source)} videos x data.clips_per_video {data.clips_per_video} = "
                f"{self.clips_in_manifest} clips are fewer than batch.global {batch.global_}; lower batch.global"
            )
        read_ahead = (data.prefetch_batches if data.workers else 0) + _AHEAD
        lookahead_steps = -(-read_ahead // self._accumulation) + 1
        self._quarantine = Quarantine(batch.global_, lookahead_steps, dataset.source)
        self._running: Iterator[Filled] | None = None
        if data.workers:
            start_server()

    def of(self, rank: int, world: int) -> ClipLoader:
        """Return the loader of another share of the same clips, which knows of the same broken videos.

        Args:
            rank: number of this process among those that share the clips.
            world: number of them.
        """
        other = copy.copy(self)
        other._rank, other._world, other._running = rank, world, None
        other._accumulation = self._batch.accumulation_steps(world)
        return other

    def batches(self, first_step: int, last_step: int) -> Iterator[Any]:
        """Yield the micro batches of steps ``first_step`` to ``last_step - 1``, each step in its accumulation steps.

        A video that ends a worker, by getting stuck for ``data.stall_seconds`` or otherwise, is replaced like any that
        cannot be read.

        Raises:
            ConfigError: if workers die again and again, memory is short, or 20 videos in a row are bad.
        """
        places = (
            self.places(step, accumulation) for step in range(first_step, last_step) for accumulation in range(self._accumulation)
        )
        self._running = filled_batches(
            self._dataset, places, self._batch.micro, self._data, self._quarantine, self._data.clips_per_video, self._pin
        )
        try:
            for filled in self._running:
                yield self._dataset.batch(filled)
        finally:
            self.close()

    def close(self) -> None:
        """Stop the workers."""
        if self._running is not None:
            running, self._running = self._running, None
            running.close()  # type: ignore[attr-defined]

    def again(self, step: int) -> list[Any]:
        """Return the micro batches of ``step`` once more, the same to the byte, decoded in this process."""
        groups = [self.places(step, accumulation) for accumulation in range(self._accumulation)]
        alone = self._data.model_copy(update={"workers": 0})
        filled = filled_batches(self._dataset, groups, self._batch.micro, alone, self._quarantine, self._data.clips_per_video)
        return [self._dataset.batch(batch) for batch in filled]

    def describe(self, steps: int) -> list[str]:
        """Return lines on manifests: how often each of several is seen in ``steps``, and how remote videos are fetched."""
        epochs = steps / self.steps_per_epoch
        return [*self._dataset.mixture.rounds(epochs), *self._dataset.source.describe_fetching()]

    def seen(self, done: int) -> dict[str, float]:
        """Return for each of several manifests how often its videos were shown on average in ``done`` steps."""
        dataset, repeats = self._dataset, self._data.clips_per_video
        epochs, position = divmod(done * self._batch.global_, dataset.clips_per_epoch)
        if len(dataset.mixture.manifests) == 1:
            return {}
        seen = dataset.order.seen(epochs, dataset.clips_per_epoch // repeats, position // repeats)
        return {f"data/epochs_{key}": value for key, value in zip(dataset.mixture.keys, seen, strict=True)}

    def path_of(self, index: int) -> str:
        """Return the path of video ``index``, as ``ClipBatch.sample`` counts."""
        return self._dataset.source.path(index)

    def places(self, step: int, accumulation: int) -> range:
        """Return the places in the stream of this rank's micro batch."""
        first = step * self._batch.global_ + (accumulation * self._world + self._rank) * self._batch.micro
        return range(first, first + self._batch.micro)

    def agree(self, done: int, gather: Callable[[Any], list[Any]]) -> None:
        """Make the ranks' quarantines common after ``done`` steps, before they are saved. Collective.

        Args:
            done: optimizer steps done.
            gather: returns every rank's value, in rank order, on every rank.
        """
        self._quarantine.agree(done, gather)

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, beside the step: JSON, the same on all ranks after ``agree``."""
        return {"quarantine": self._quarantine.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the ``state`` of a checkpoint."""
        self._quarantine.restore(state.get("quarantine", []))
