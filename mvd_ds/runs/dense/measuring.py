"""The measurement of dense read-outs: one pass over the held-out clips, and the block that the training clips chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, ProbeRecipe, ViewSettings
from mvd_ds.data.dense_targets import CellTargets
from mvd_ds.evaluation.dense_inputs import readout_inputs
from mvd_ds.evaluation.dense_scores import video_sums
from mvd_ds.evaluation.ridge import predict
from mvd_ds.runs.dense.fitting import Key, Readout, seen_by
from mvd_ds.runs.dense.sources import Source, Target, TargetReader
from mvd_ds.runs.probing.clips import ClipGroup, Split, pass_over
from mvd_ds.training.cluster import Cluster


class Drawn(NamedTuple):
    """A held-out clip whose predictions are drawn."""

    path: str
    clip: Tensor
    """uint8 (C, T, H, W)."""
    truths: dict[Key, np.ndarray]
    """float32 (n, K), NaN where it is not known, by (source, target)."""
    answers: dict[Key, np.ndarray]
    """float32 (n, K) of the first seed, by (source, target)."""


class Measured(NamedTuple):
    """The outcome of read-outs on the held-out videos."""

    sums: dict[Key, np.ndarray]
    """(seeds, videos, ...) of ``video_sums``."""
    videos: list[int]
    """Those that could be read."""
    drawn: list[Drawn]


def chosen_blocks(source: Source, target: str, readouts: Mapping[Key, Readout], seeds: int) -> list[str]:
    """Return the block that each seed chooses: that of the least error on its share of the training clips."""
    return [min(source.blocks, key=lambda block: readouts[block, target].errors[seed]) for seed in range(seeds)]


def measure_readouts(
    recipe: ProbeRecipe,
    sources: Sequence[Source],
    targets: Sequence[Target],
    readouts: Mapping[Key, Readout],
    split: Split,
    faults: list[str],
    cluster: Cluster,
) -> Measured:
    """Return what all read-outs did on the held-out clips, on every process. Collective.

    Groups of clips do not depend on the number of processes, so neither do the numbers.

    Args:
        recipe: the probe run.
        sources: networks and pixels.
        targets: the targets.
        readouts: those of every block and target.
        split: the held-out clips.
        faults: ``path: reason`` of every video that could not be read is appended here.
        cluster: the processes.

    Raises:
        ConfigError: if an array is missing or does not fit, or a target is known nowhere.
    """
    measurer = _Measurer(recipe, sources, targets, readouts, split)
    ordered = pass_over(recipe, split, ViewSettings(), "read-outs of held-out clips", faults, cluster, measurer.of_group)
    videos = [video for part in ordered for video in part.videos]
    if not videos:
        raise ConfigError("none of the held-out videos could be read")
    sums = {key: np.concatenate([part.sums[key] for part in ordered if part.videos], axis=1) for key in readouts}
    for (_, target), values in sums.items():
        if not values.any():
            raise ConfigError(f"dense.targets {target}: is known nowhere in the held-out clips")
    return Measured(sums, videos, [drawn for part in ordered for drawn in part.drawn])


class _Measurer:
    """The sums and pictures of groups of held-out clips."""

    def __init__(
        self,
        recipe: ProbeRecipe,
        sources: Sequence[Source],
        targets: Sequence[Target],
        readouts: Mapping[Key, Readout],
        split: Split,
    ) -> None:
        self.recipe, self.sources, self.targets, self.readouts, self.split = recipe, sources, targets, readouts, split
        self.reader = TargetReader(recipe.data, split[0], targets)

    def of_group(self, group: ClipGroup, places: Sequence[int]) -> Measured:
        """Return what happened on a group of clips at ``places`` of the split."""
        rows = [row for row, is_read in enumerate(group.ok.tolist()) if is_read]
        at = [places[row] for row in rows]
        sums: dict[Key, list[np.ndarray]] = {key: [] for key in self.readouts}
        drawn = {
            row: Drawn(self.split[0].refs.path(self.split[1][place]), group.clips[rows[row], 0, 0].clone(), {}, {})
            for row, place in enumerate(at)
            if place < self.recipe.dense.pictures
        }
        read = [self.reader.read(self.split[1][place]) for place in at]
        for source in self.sources if rows else ():
            tokens = source.tokens(seen_by(self.recipe, source, group.clips[rows], at))
            for target in self.targets:
                best = chosen_blocks(source, target.name, self.readouts, 1)[0]
                cells = [self.reader.cells(one, source, target) for one in read]
                for block, of_block in zip(source.blocks, tokens, strict=True):
                    inputs = readout_inputs(of_block, target.is_of_frames, self.recipe.dense.parts)
                    weights = self.readouts[block, target.name].weights.to(source.device)
                    for row, (wanted, known) in enumerate(map(_tensors, cells)):
                        answers = [predict(of_seed, inputs[row]).cpu() for of_seed in weights]
                        found = [video_sums(answer[known], wanted[known], target.classes) for answer in answers]
                        sums[block, target.name].append(np.stack(found))
                        if row in drawn and block == best:
                            truth = wanted.masked_fill(~known[:, None], float("nan"))
                            drawn[row].truths[source.name, target.name] = truth.float().numpy()
                            drawn[row].answers[source.name, target.name] = answers[0].float().numpy()
        stacked = {key: np.stack(values, axis=1) for key, values in sums.items() if values}
        return Measured(stacked, [self.split[1][place] for place in at], list(drawn.values()))


def _tensors(cells: CellTargets) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(cells.wanted), torch.from_numpy(cells.is_known)
