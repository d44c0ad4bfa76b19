"""Scores of tokens by what moves in the clip itself, without a network, in integers: every device finds the same."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvd_ds.config import Grid, MaskingSettings

_LUMA = (77, 150, 29)
"""Weights of red, green and blue, in 256ths. Source: ITU-R BT.601."""


def motion_scores(settings: MaskingSettings, grid: Grid, clip: Tensor, numbers: Tensor) -> Tensor:
    """Return the score of every token.

    Args:
        clip: uint8 (B, C, T, H, W).
        numbers: float32 (B, K, slots * cells), which ``pick: warp`` moves along.

    Returns:
        float32 (B, N); with ``pick: warp`` (B, K, N).
    """
    if settings.motion == "difference":
        return frame_differences(grid, clip)
    motion = block_motion(grid, clip, settings.motion_px)
    if settings.pick == "warp":
        return warped(settings, grid, clip.shape[-1] // grid[2], motion, numbers)
    return motion.square().sum(dim=-1).double().sqrt().float().flatten(1)


def frame_differences(grid: Grid, clip: Tensor) -> Tensor:
    """Return the sum of absolute changes from every frame of a token to the next frame, float32 (B, N).

    The last frame has no next one, and counts as the one before it did.
    """
    t, h, w = grid
    frames = clip.to(torch.int16)
    change = (frames[:, :, 1:] - frames[:, :, :-1]).abs()
    change = torch.cat((change, change[:, :, -1:]), dim=2)
    tubelets = change.unflatten(4, (w, -1)).unflatten(3, (h, -1)).unflatten(2, (t, -1))
    return tubelets.sum(dim=(1, 3, 5, 7), dtype=torch.int64).float().flatten(1)


def block_motion(grid: Grid, clip: Tensor, most_px: int) -> Tensor:
    """Return where each patch of a slot was, or will be, in the neighbouring slot that is nearer to the middle of the clip.

    Slots are compared by the luma of their first frames, by the sum of absolute differences over a patch, at all
    displacements in steps of an eighth of a patch. Of equally good ones the shortest is taken: flat patches stand still.

    Source: exhaustive block matching. Differs from optical flow: one displacement for a patch, none below a step, no smoothness
    between patches, and large or fast motion beyond ``most_px`` is not found.

    Returns:
        int64 (B, t, h, w, 2): displacement in rows and columns, pixels. The middle slot's is that to the slot before it.
    """
    t, h, w = grid
    side = clip.shape[-1] // w
    first = clip[:, :, :: clip.shape[2] // t].to(torch.int32).unbind(1)
    luma = torch.stack([weight * colour for weight, colour in zip(_LUMA, first, strict=True)]).sum(dim=0, dtype=torch.int32) >> 8
    # Slot by slot: a list as an index would be copied to the device, which the host waits for.
    others = torch.stack([luma[:, slot] for slot in _neighbours(t)], dim=1).float()
    padded = F.pad(others, (most_px,) * 4, mode="replicate").to(torch.int16)
    luma = luma.to(torch.int16)
    rows, columns = luma.shape[-2:]
    best = luma.new_full((len(clip), t, h, w), torch.iinfo(torch.int32).max, dtype=torch.int32)
    rows_moved = columns_moved = torch.zeros_like(best, dtype=torch.int64)
    for down, right in _displacements(most_px, max(side // 8, 1)):
        top, left = most_px + down, most_px + right
        difference = (padded[..., top : top + rows, left : left + columns] - luma).abs()
        distance = difference.unflatten(3, (w, side)).unflatten(2, (h, side)).sum(dim=(3, 5), dtype=torch.int32)
        is_better = distance < best
        best = torch.where(is_better, distance, best)
        rows_moved, columns_moved = (
            torch.where(is_better, pixels, known) for pixels, known in ((down, rows_moved), (right, columns_moved))
        )
    return torch.stack((rows_moved, columns_moved), dim=-1)


def warped(settings: MaskingSettings, grid: Grid, patch_px: int, motion: Tensor, numbers: Tensor) -> Tensor:
    """Return scores (B, K, N): random ones in the middle slot, and in every other those of the place that its content moved from.

    What was matched outside of the frame has a random score of its own.

    Source: MGMAE, Huang et al. 2023, which warps a mask along RAFT's flow. Differs: ``block_motion`` in place of a network, and
    scores are carried along, of which each slot hides as many.

    Args:
        patch_px: side of a patch, pixels.
        motion: from ``block_motion``.
        numbers: float32 (B, K, t * cells), of which the middle slot's are the ones that are moved.
    """
    t, h, w = grid
    side = settings.cell
    volume = numbers.unflatten(-1, (t, h // side, 1, w // side, 1)).expand(-1, -1, -1, -1, side, -1, side)
    volume = volume.reshape(*numbers.shape[:2], t, h, w)
    middle, neighbours = t // 2, _neighbours(t)
    rows, columns = torch.meshgrid(*(torch.arange(size, device=motion.device) for size in (h, w)), indexing="ij")
    clips = torch.arange(len(motion), device=motion.device)[:, None, None]
    found = []
    for slot in range(t):
        # Centres of patches, in pixels, followed from slot to slot to the middle.
        row, column = (part.expand(len(motion), h, w) * patch_px + patch_px // 2 for part in (rows, columns))
        while slot != middle:
            at = motion[clips, slot, (row // patch_px).clamp(0, h - 1), (column // patch_px).clamp(0, w - 1)]
            row, column, slot = row + at[..., 0], column + at[..., 1], neighbours[slot]
        found.append((row // patch_px, column // patch_px))
    scores = []
    for slot, (row, column) in enumerate(found):
        is_inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        source = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).flatten(1)[:, None].expand(-1, numbers.shape[1], -1)
        moved = volume[:, :, middle].flatten(2).gather(-1, source).unflatten(-1, (h, w))
        scores.append(torch.where(is_inside[:, None], moved, volume[:, :, slot]))
    return torch.stack(scores, dim=2).flatten(2)


def _neighbours(slots: int) -> list[int]:
    """Return for every slot the neighbour that is nearer to the middle; for the middle the slot before it."""
    middle = slots // 2
    return [slot + 1 if slot < middle else slot - 1 for slot in range(slots)]


def _displacements(most_px: int, step: int) -> list[tuple[int, int]]:
    """Return displacements in rows and columns, pixels, the shortest first."""
    reach = range(-(most_px // step) * step, most_px + 1, step)
    return sorted(((down, right) for down in reach for right in reach), key=lambda each: (each[0] ** 2 + each[1] ** 2, each))
