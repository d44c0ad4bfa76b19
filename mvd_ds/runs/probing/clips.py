"""The clips of a probe's videos, as every network of a run is shown them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from mvd_ds.config import ClipSettings, ProbedModel, ProbeRecipe, ViewSettings
from mvd_ds.data.drawn_views import Drawing, drawn_view
from mvd_ds.data.evaluation import batches_in_order, middle_clip, middle_clips
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.readers.video import Video
from mvd_ds.data.views import cut_views, rank_groups, view_batches
from mvd_ds.evaluation.features import FRAMES
from mvd_ds.runs.probing.order import PLAIN, SEED_OF_ORDER
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import StepProgress

Part = TypeVar("Part")
Split = tuple[Manifest, Sequence[int]]
"""A manifest and videos of it."""


class ClipGroup(NamedTuple):
    """The clips of a few videos."""

    clips: Tensor
    """uint8 (B, segments, crops, C, T, H, W), black where ``ok`` is False."""
    labels: Tensor
    """int64 (B, L)."""
    ok: Tensor
    """bool (B,), False where the video could not be read."""
    faults: list[str]
    """``path: reason`` of each video that could not be read."""


def read_groups(recipe: ProbeRecipe, split: Split, groups: Sequence[Sequence[int]], views: ViewSettings) -> Iterator[ClipGroup]:
    """Yield the clips of groups of positions in ``split``, in this order.

    Raises:
        ConfigError: if workers die again and again.
    """
    manifest, videos = split
    clip, wanted = recipe.data.clip, [[videos[place] for place in group] for group in groups]
    if recipe.views is not None:
        for batch in view_batches(recipe.data, manifest, wanted, views.segments, views.crops):
            yield ClipGroup(batch.clips.unflatten(1, (views.segments, views.crops)), batch.labels, batch.ok, batch.faults)
        return
    for arrays, faults in middle_clips(recipe.data, manifest, wanted, clip.frames, clip.size_px):
        yield ClipGroup(arrays["clips"][:, None, None], arrays["labels"], arrays["ok"], faults)


def pass_over(
    recipe: ProbeRecipe,
    split: Split,
    views: ViewSettings,
    what: str,
    faults: list[str],
    cluster: Cluster,
    make: Callable[[ClipGroup, range], Part],
) -> list[Part]:
    """Return what is made of every group of clips of ``split``, in order, on every process; each reads its share. Collective.

    Groups do not depend on the number of processes, so neither do the results.

    Args:
        recipe: the probe run.
        split: the clips.
        views: views of each.
        what: names the pass on the terminal.
        faults: ``path: reason`` of every video that could not be read is appended here.
        cluster: the processes.
        make: of a group of clips and their positions in ``split``.
    """
    mine = rank_groups(len(split[1]), group_size(recipe, views), cluster.rank, cluster.world)
    progress = StepProgress(what, 0, sum(map(len, mine)), enabled=cluster.is_main)
    parts: list[Part] = []
    told: list[str] = []
    seen = 0
    with cluster.together(), torch.inference_mode():
        for places, group in zip(mine, read_groups(recipe, split, mine, views), strict=True):
            parts.append(make(group, places))
            told += group.faults
            seen += len(places)
            progress.update(seen, "clips")
        progress.close()
    gathered = cluster.gather((parts, told))
    faults.extend(fault for _, listed in gathered for fault in listed)
    turns = max(len(own) for own, _ in gathered)
    return [own[turn] for turn in range(turns) for own, _ in gathered if turn < len(own)]


def read_drawn(recipe: ProbeRecipe, split: Split, groups: Sequence[Sequence[int]]) -> Iterator[ClipGroup]:
    """Yield the clips of groups of rows of training clips with ``recipe.drawn``: for each the plain one, then its drawn views.

    Row r is view r % (count + 1) of the video at position r // (count + 1) in ``split``; view 0 is the plain one.

    Raises:
        ConfigError: if workers die again and again.
    """
    assert recipe.drawn is not None
    manifest, videos = split
    every, clip, segments = recipe.drawn.count + 1, recipe.data.clip, recipe.views_of(held_out=False).segments
    wanted = [[videos[row // every] for row in group] for group in groups]
    keys = [(videos[row // every], row % every) for group in groups for row in group]
    drawn = clip.model_copy(update={"crop": "random_resized", **recipe.drawn.model_dump(include={"crop_area", "flip"})})
    cut_row = partial(_row_of, clip=clip, plain_views=recipe.views, drawing=Drawing(drawn, segments, recipe.run.seed))
    shape = (segments, 3, clip.frames, clip.size_px, clip.size_px)
    for arrays, faults in batches_in_order(recipe.data, manifest, wanted, shape, cut_row, keys):
        yield ClipGroup(arrays["clips"][:, :, None], arrays["labels"], arrays["ok"], faults)


def _row_of(video: Video, key: tuple[int, int], clip: ClipSettings, plain_views: ViewSettings | None, drawing: Drawing) -> Tensor:
    """Return the plain view of a training clip, or a drawn one, uint8 (segments, C, T, H, W)."""
    if key[1]:
        return drawn_view(video, key, drawing)
    if plain_views is None:
        return middle_clip(video, clip, clip.frames, clip.size_px)[None]
    return cut_views(video, clip, drawing.segments, 1)


def shown(clips: Tensor, model: ProbedModel, places: Sequence[int], seed: int) -> Tensor:
    """Return clips (B, segments, crops, C, T, H, W) with the frames that a model is shown.

    Args:
        clips: of the videos at ``places``.
        model: which frames it sees.
        places: positions of the videos in their split; they and the seed decide the order of shuffled frames.
        seed: ``run.seed``.
    """
    change = FRAMES[model.frames]
    if model.frames == "all":
        return clips
    rows = []
    for row, place in zip(clips, places, strict=True):
        rows.append(torch.cat([change(view[None], place, seed) for view in row.flatten(0, 1)]).view_as(row))
    return torch.stack(rows)


def in_order(clips: Tensor, ways: Sequence[str], places: Sequence[int], seed: int) -> Tensor:
    """Return clips (B, segments, crops, C, T, H, W), each played in its way, a name of ``FRAMES``.

    Args:
        clips: of the videos at ``places``.
        ways: one for each clip.
        places: positions of the videos in their split; they and the seed decide the order of shuffled frames.
        seed: ``run.seed``.
    """
    rows = [
        torch.cat([FRAMES[way](view[None], place, seed + SEED_OF_ORDER) for view in clip.flatten(0, 1)]).view_as(clip)
        for clip, way, place in zip(clips, ways, places, strict=True)
    ]
    return clips if set(ways) <= {PLAIN} else torch.stack(rows)


def group_size(recipe: ProbeRecipe, views: ViewSettings) -> int:
    """Return the number of videos whose views are one forward of ``batch`` clips."""
    return max(recipe.batch // views.count, 1)
