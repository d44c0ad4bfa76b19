"""Pictures of what codes stand for: the patches of some clips that are nearest to each, and clips that are made of codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.config import Grid
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.evaluation.sheets import PAPER, Observed, Sheet, still
from mvd_ds.objectives.codebook import Codebook
from mvd_ds.runs.pictures import CELL_PX, ClipPictures, as_png, describe_clip, named_sheets, write_pictures
from mvd_ds.training.protocols import Objective
from mvd_ds.training.reporting.metrics import MetricsWriter
from mvd_ds.training.tokenizing import Tokenizing

#: Codes that are shown, evenly spaced from the most used one to the least used one, and patches of each.
SHOWN_CODES, SHOWN_PATCHES = 12, 8
#: Frames of patches that have the code, and of those that are near it and have another one.
OWN, OTHER = (255, 140, 0), (128, 128, 128)
#: Clips that are shown beside what codes make of them.
SHOWN_CLIPS = 4


class CodePictures(ClipPictures):
    """The hook that draws the patches nearest to some codes, and clips made of codes, for TensorBoard and ``pictures/``."""

    recipe: TokenizerRecipe

    def __call__(self, done: int, objective: Objective, writer: MetricsWriter, gradients: dict[str, float]) -> None:
        """Find, draw and write the patches of step ``done``; ``gradients`` are norms by block."""
        assert isinstance(objective, Tokenizing)
        given = objective.look(self.batch)
        with self.cluster.together():
            if self.cluster.is_main:
                clips = [describe_clip(self.manifest, video) for video in self.videos]
                sheets = {"codes": self._patches(objective.codebook, given["encoded"].float(), given["codes"])}
                sheets |= self._reconstructions(objective.reconstructed(given["prediction"]), clips)
                image = {name: as_png(still(sheet, CELL_PX)) for name, sheet in sheets.items()}
                share = objective.codebook.share.cpu()
                writer.show(done, {f"pictures/{name}": png for name, png in image.items()}, {"codes/share": share})
                writer.profile(done, "gradients/norm_by_block", list(gradients.values()))
                numbers: dict[str, Any] = {"step": done, "clips": clips, "similarity": {}, "gradient_norm": gradients}
                numbers |= {"codes": shown_codes(objective.codebook.share).tolist()}
                write_pictures(self.folder.pictures / f"step-{done:08}", image, numbers)

    def _reconstructions(self, made: Tensor | None, clips: list[dict[str, Any]]) -> dict[str, Sheet]:
        """Return a sheet of clips and of what codes make of them, by its name; nothing of ``None``."""
        if made is None:
            return {}
        clip = self.batch.views[self.recipe.data.clip.size_px][:SHOWN_CLIPS]
        shown = (made[:SHOWN_CLIPS].clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        return named_sheets(Observed(clip, self.recipe.grid, reconstruction=shown), clips[:SHOWN_CLIPS])

    def _patches(self, codebook: Codebook, encoded: Tensor, given: Tensor) -> Sheet:
        """Return for some codes the patches that are nearest to each, of vectors (B, N, d) with their codes (B, N)."""
        clip = self.batch.views[self.recipe.data.clip.size_px]
        codes = shown_codes(codebook.share)
        places = nearest_places(encoded, codebook.vectors[codes])
        tubelet = self.recipe.model.tubelet_frames
        sheet: Sheet = {}
        for code, share, found in zip(codes.tolist(), codebook.share[codes], places, strict=True):
            own = [int(given[row, place]) == code for row, place in found]
            name = f"code {code}: {float(share) * codebook.settings.codes:.2g} x even share; {sum(own)} of {len(own)} have it"
            cut = [surroundings(clip[row], place, self.recipe.grid, tubelet) for row, place in found]
            sheet[name] = np.stack([framed(patch, OWN if has else OTHER) for patch, has in zip(cut, own, strict=True)])
        return sheet


def shown_codes(share: Tensor) -> Tensor:
    """Return the codes to show, int64 (at most SHOWN_CODES,): by falling ``share`` (K,), evenly spaced."""
    order = share.argsort(descending=True, stable=True)
    chosen = np.unique(np.linspace(0, len(order) - 1, min(SHOWN_CODES, len(order))).round().astype(np.int64))
    return order[torch.from_numpy(chosen).to(order.device)]


def nearest_places(encoded: Tensor, vectors: Tensor) -> list[list[tuple[int, int]]]:
    """Return for every code the nearest token of each of the clips that have the nearest ones, as (clip, token), nearest first.

    Args:
        encoded: fp32 (B, N, d).
        vectors: fp32 (C, d).
    """
    found = []
    for vector in vectors:
        distance, place = (encoded - vector).square().sum(dim=-1).min(dim=1)
        clips = distance.argsort(stable=True)[:SHOWN_PATCHES].tolist()
        found.append([(clip, int(place[clip])) for clip in clips])
    return found


def surroundings(clip: Tensor, place: int, grid: Grid, tubelet_frames: int) -> np.ndarray:
    """Return the patch of a token in its first frame, with the patches around it, and paper outside of the picture.

    Args:
        clip: uint8 (C, T, H, W).
        place: index of the token.
        grid: (t, h, w).

    Returns:
        uint8 (3 patches, 3 patches, 3).
    """
    _, rows, columns = grid
    patch = clip.shape[-1] // columns
    slot, row, column = place // (rows * columns), place // columns % rows, place % columns
    frame = functional.pad(clip[:, slot * tubelet_frames], (patch,) * 4, value=PAPER[0])
    cut = frame[:, row * patch : (row + 3) * patch, column * patch : (column + 3) * patch]
    return np.ascontiguousarray(cut.permute(1, 2, 0).cpu().numpy())


def framed(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return ``surroundings`` uint8 (3 patches, 3 patches, 3) with a line around the patch in the middle."""
    patch, lined = len(image) // 3, image.copy()
    for line in (patch - 1, 2 * patch):
        lined[line, patch - 1 : 2 * patch + 1] = colour
        lined[patch - 1 : 2 * patch + 1, line] = colour
    return lined
