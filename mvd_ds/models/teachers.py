"""Frozen encoders that give the targets of stage two."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ConfigError, Grid, TeacherSettings, TrainingRecipe
from mvd_ds.models.blueprint import Blueprint, Built
from mvd_ds.models.layers import pick
from mvd_ds.models.networks import FrozenNetwork, family_of


class Teacher(nn.Module):
    """A frozen network that gives the features of a clip on the student's token grid.

    Args:
        network: the network with its weights.
        settings: which features, and how many clips at once.
        student_grid: (t, h, w) grid of the targets.
        student_tubelet_frames: an image teacher sees one frame of each of the student's tubelets.
    """

    def __init__(
        self, network: FrozenNetwork, settings: TeacherSettings, student_grid: Grid, student_tubelet_frames: int
    ) -> None:
        super().__init__()
        self.settings = settings
        self.student_grid = student_grid
        self.student_tubelet_frames = student_tubelet_frames
        self.network = network
        self.encoder = network.module

    def forward(self, clip: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return the target features.

        Args:
            clip: (B, C, T, H, W) normalised, at the teacher's own size.
            wanted: (B, M) int64, tokens of the student's grid that are read; None: all.

        Returns:
            (B, M, D), or (B, N, D) with N of the student's grid.
        """
        chunk = self.settings.chunk_clips or len(clip)
        parts = clip.split(chunk)
        if wanted is None:
            return torch.cat([self._features(part) for part in parts])
        each = zip(parts, wanted.split(chunk), strict=True)
        return torch.cat([self._wanted_features(part, tokens) for part, tokens in each])

    def _wanted_features(self, clip: Tensor, wanted: Tensor) -> Tensor:
        """Return (B, M, D); where the grids agree, a selective network computes no others in the end."""
        if self.network.is_selective and self.grid == self.student_grid:
            return self.network.tokens(self._input(clip), wanted)
        return pick(self._features(clip), wanted)

    @property
    def grid(self) -> Grid:
        """Its own (t, h, w) grid for a clip; an image teacher has a frame for each of the student's slots."""
        slots, rows, columns = self.network.grid
        return (self.student_grid[0] if self.settings.kind == "image" else slots, rows, columns)

    @property
    def read_blocks(self) -> list[int]:
        """Blocks of its network that are read, ascending."""
        return self.network.blocks

    def _input(self, clip: Tensor) -> Tensor:
        """Return what the network takes of a clip: the clip, or the frames of an image teacher as clips of their own."""
        if self.settings.kind == "video":
            return clip
        frames = clip[:, :, self.settings.frame_in_tubelet :: self.student_tubelet_frames]
        return frames.transpose(1, 2).flatten(0, 1).unsqueeze(2)

    def _features(self, clip: Tensor) -> Tensor:
        tokens = self.network.tokens(self._input(clip))
        return resize_grid(tokens.unflatten(0, (len(clip), -1)).flatten(1, 2), self.grid, self.student_grid)


def resize_grid(tokens: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """Resize (B, N, D) on ``grid`` to (B, N', D) on ``wanted``: linear along every axis, in fp32, centres aligned."""
    if grid == wanted:
        return tokens
    volume = tokens.float().transpose(1, 2).unflatten(2, grid)
    volume = F.interpolate(volume, size=wanted, mode="trilinear", align_corners=False)
    return volume.flatten(2).transpose(1, 2).to(tokens.dtype)


def plan_teacher(name: str, settings: TeacherSettings, recipe: TrainingRecipe) -> Blueprint[Teacher]:
    """Return a teacher whose weights were found to fit, before they take memory.

    Args:
        name: its name under ``teachers``.
        settings: its settings.
        recipe: the run it teaches in.

    Raises:
        ConfigError: if its weights are missing, do not fit, or describe another architecture than ``settings``.
    """
    clip = recipe.data.clip
    return plan_lone_teacher(name, settings, clip.frames, clip.size_px, recipe.grid, recipe.model.tubelet_frames, recipe.run.seed)


def build_teacher(name: str, settings: TeacherSettings, recipe: TrainingRecipe) -> Teacher:
    """Return the teacher of ``plan_teacher``, built: in ``eval()`` and without gradients; fp32, on the CPU.

    Raises:
        ConfigError: as ``plan_teacher``.
    """
    return plan_teacher(name, settings, recipe).build()


def plan_lone_teacher(
    name: str,
    settings: TeacherSettings,
    frames: int,
    size_px: int,
    student_grid: Grid,
    student_tubelet_frames: int,
    seed: int = 0,
) -> Blueprint[Teacher]:
    """Return what ``plan_teacher`` returns, outside of a recipe.

    Args:
        name: it enters random weights and messages.
        settings: its settings.
        frames: frames of the student's clip.
        size_px: side of the student's clip; the teacher's own is ``settings.input_px``.
        student_grid: (t, h, w) grid of the targets.
        student_tubelet_frames: frames of one of the student's tubelets.
        seed: seed of random weights.

    Raises:
        ConfigError: as ``plan_teacher``.
    """
    side, origin = settings.input_px or size_px, f"teachers.{name}"
    planned = family_of(settings).plan(settings, frames, side, seed, origin)
    if settings.target.norm == "final" and not planned.has_final_norm:
        raise ConfigError(f"{origin}.target.norm final: {settings.weights} has no norm after its last block; choose none")

    def wrap(module: nn.Module) -> Teacher:
        return Teacher(planned.adapt(module), settings, student_grid, student_tubelet_frames).eval().requires_grad_(False)

    if isinstance(planned.blueprint, Built):
        return Built(wrap(planned.blueprint.build()))
    return Blueprint(
        lambda: wrap(planned.blueprint.construct()),
        lambda part, module: planned.blueprint.fill(part.removeprefix("encoder."), module),
    )
