"""The fit of dense read-outs: one pass over the training clips adds sums up, group by group in order, whoever computed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, ProbeRecipe, ViewSettings
from mvd_ds.evaluation.dense_inputs import readout_inputs
from mvd_ds.evaluation.probes import selection_split
from mvd_ds.evaluation.ridge import Sums, relative_errors, ridge
from mvd_ds.runs.dense.sources import Source, Target, TargetReader, key_widths
from mvd_ds.runs.probing.clips import ClipGroup, Split, group_size, read_groups, shown
from mvd_ds.runs.probing.head_states import KeptHeads
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import StepProgress

Key = tuple[str, str]
"""Name of a result and of a target."""


class Readout(NamedTuple):
    """A fitted read-out."""

    weights: Tensor
    """float64 (seeds, 1 + D, K), of (1, x)."""
    penalties: tuple[float, ...]
    """Choice of each seed."""
    errors: tuple[float, ...]
    """Relative squared error of each seed's choice on the training clips that it was chosen on."""


class _Fit:
    """The sums of all read-outs: over all training clips, and over those on which each seed chooses."""

    def __init__(self, recipe: ProbeRecipe, sources: Sequence[Source], targets: Sequence[Target], count: int) -> None:
        self.recipe, self.sources, self.targets = recipe, sources, targets
        self.splits = np.stack([selection_split(count, recipe.selection_share, seed)[0] for seed in recipe.seeds])
        self.widths = key_widths(recipe, sources, targets)
        self.sums = self.none()

    def none(self) -> dict[Key, list[Sums]]:
        """Return the sums over no clips."""
        found: dict[Key, list[Sums]] = {}
        for source in self.sources:
            for block in source.blocks:
                for target in self.targets:
                    shape = (self.widths[block, target.name], target.width, source.device)
                    found[block, target.name] = [Sums.none(*shape) for _ in range(1 + len(self.recipe.seeds))]
        return found

    def of_group(self, group: ClipGroup, places: Sequence[int], split: Split, reader: TargetReader) -> dict[Key, list[Sums]]:
        """Return the sums over a group of clips, at ``places`` of the training split."""
        rows = [row for row, is_read in enumerate(group.ok.tolist()) if is_read]
        found: dict[Key, list[Sums]] = {}
        read = [reader.read(split[1][places[row]]) for row in rows]
        if not rows:
            return self.none()
        chosen = self.splits[:, [places[row] for row in rows]]
        for source in self.sources:
            tokens = source.tokens(seen_by(self.recipe, source, group.clips[rows], [places[row] for row in rows]))
            for target in self.targets:
                cells = [reader.cells(one, source, target) for one in read]
                wanted = torch.from_numpy(np.concatenate([one.wanted for one in cells])).to(source.device)
                known = np.concatenate([one.is_known for one in cells])
                video = np.repeat(np.arange(len(cells)), [len(one.is_known) for one in cells])
                for block, of_block in zip(source.blocks, tokens, strict=True):
                    inputs = readout_inputs(of_block, target.is_of_frames, self.recipe.dense.parts).flatten(0, 1)
                    parts = [known, *(known & is_chosen[video] for is_chosen in chosen)]
                    masks = [torch.from_numpy(part).to(source.device) for part in parts]
                    found[block, target.name] = [Sums.of(inputs[mask], wanted[mask]) for mask in masks]
        return found

    def state(self) -> dict[str, Any]:
        """Return all sums, as they are kept."""
        return {"\n".join(key): [list(one) for one in sums] for key, sums in self.sums.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` returned."""
        for source in self.sources:
            for block in source.blocks:
                for target in self.targets:
                    kept = state[f"{block}\n{target.name}"]
                    self.sums[block, target.name] = [Sums(*(part.to(source.device) for part in one)) for one in kept]

    def add(self, own: dict[Key, list[Sums]], cluster: Cluster) -> None:
        """Add the sums of one group of every process, in the order of the groups. Collective."""
        for key, sums in self.sums.items():
            for place, before in enumerate(sums):
                gathered = [cluster.gather_tensor(part) for part in own[key][place]]
                for parts in zip(*gathered, strict=True):
                    before = before.plus(Sums(*parts))
                sums[place] = before


def fit_readouts(
    recipe: ProbeRecipe,
    sources: Sequence[Source],
    targets: Sequence[Target],
    split: Split,
    faults: list[str],
    cluster: Cluster,
    keeper: KeptHeads,
) -> dict[Key, Readout]:
    """Return the read-outs of every block and target, fitted on all training clips, on every process. Collective.

    Each seed chooses its penalty on a share of the training clips, by the error of a fit on the others. Sums are added up in the
    order of the groups of clips, so that neither the number of processes nor an interruption changes a bit of them.

    Args:
        recipe: the probe run.
        sources: networks and pixels.
        targets: the targets.
        split: the training clips.
        faults: ``path: reason`` of every video that could not be read is appended here.
        cluster: the processes.
        keeper: place of an interrupted fit.

    Raises:
        ConfigError: if an array is missing or does not fit, or a target is known nowhere.
    """
    fit = _Fit(recipe, sources, targets, len(split[1]))
    views, size = ViewSettings(), group_size(recipe, ViewSettings())
    groups = [range(first, min(first + size, len(split[1]))) for first in range(0, len(split[1]), size)]
    first, told = keeper.begin(), list[str]()
    with cluster.together():
        if first:
            state = keeper.load(0)
            fit.load(state["sums"])
            told += state["faults"] if cluster.is_main else []
    left, reader = groups[first:], TargetReader(recipe.data, split[0], targets)
    mine = left[cluster.rank :: cluster.world]
    reading = zip(mine, read_groups(recipe, split, mine, views), strict=True)
    progress = StepProgress("read-outs of training clips", first, len(groups), enabled=cluster.is_main)
    for turn in range(0, len(left), cluster.world):
        with cluster.together(), torch.inference_mode():
            if turn + cluster.rank < len(left):
                places, group = next(reading)
                told += group.faults
                own = fit.of_group(group, places, split, reader)
            else:
                own = fit.none()  # other processes have a group left
        fit.add(own, cluster)
        done = min(first + turn + cluster.world, len(groups))
        progress.update(done, "groups of clips")
        if _is_due(done, cluster.world, recipe.run.save_every_steps) and done < len(groups):
            every = [fault for part in cluster.gather(told) for fault in part]
            told = every if cluster.is_main else []
            keeper.save(done, {0: {"sums": fit.state(), "faults": every}} if cluster.is_main else {})
    progress.close()
    faults.extend(fault for part in cluster.gather(told) for fault in part)
    with cluster.together():
        solved = {key: _solve(key, sums, recipe) for key, sums in fit.sums.items()} if cluster.is_main else {}
    return cluster.broadcast(solved)


def seen_by(recipe: ProbeRecipe, source: Source, clips: Tensor, places: Sequence[int]) -> Tensor:
    """Return the clips as a source is shown them."""
    model = recipe.models.get(source.name)
    return clips if model is None else shown(clips, model, places, recipe.run.seed)


def _is_due(done: int, world: int, every: int) -> bool:
    """Return whether a multiple of ``every`` groups lies among the last ``world``."""
    return done // every > (done - world) // every


def _solve(key: Key, sums: Sequence[Sums], recipe: ProbeRecipe) -> Readout:
    """Return the read-out of all clips under the penalty that each seed chooses; of equals, the largest."""
    total, *selected = sums
    if not total.rows:
        raise ConfigError(f"dense.targets {key[1]}: is known nowhere in the training clips")
    penalties, errors = [], []
    strengths = sorted(recipe.dense.penalties, reverse=True)
    for part in selected:
        rest = total.minus(part)
        if part.rows < 1 or rest.rows < 1:
            raise ConfigError(
                f"dense.targets {key[1]}: is fitted on a part of the training clips and chosen on another; give more of them"
            )
        found = [float(relative_errors(part, weights).mean()) for weights in ridge(rest, strengths)]
        errors.append(min(found))
        penalties.append(strengths[int(np.argmin(found))])
    weights = dict(zip(dict.fromkeys(penalties), ridge(total, list(dict.fromkeys(penalties))), strict=True))
    return Readout(torch.stack([weights[penalty] for penalty in penalties]).cpu(), tuple(penalties), tuple(errors))
