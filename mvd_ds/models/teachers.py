"""Frozen encoders that give the targets of stage two."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ConfigError, Grid, TeacherSettings, TrainingRecipe
from mvd_ds.models.blueprint import Blueprint, Built
from mvd_ds.models.initialisation import initialise_module
from mvd_ds.models.layers import pick, run_blocks
from mvd_ds.models.timm_network import TimmNetwork, build_timm_network
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import plan_encoder


class Teacher(nn.Module):
    """Features of a clip on the student's token grid.

    Blocks behind the last one that is read are dropped, and so is the final norm where targets are taken before it.

    Args:
        encoder: network with its weights; it becomes part of the teacher and loses what is not read.
        settings: which features, and how many clips at once.
        student_grid: (t, h, w) grid of the targets.
        student_tubelet_frames: an image teacher sees one frame of each of the student's tubelets.
    """

    def __init__(
        self,
        encoder: VisionTransformer | TimmNetwork,
        settings: TeacherSettings,
        student_grid: Grid,
        student_tubelet_frames: int,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.student_grid = student_grid
        self.student_tubelet_frames = student_tubelet_frames
        self.read_blocks: list[int] = []
        if isinstance(encoder, VisionTransformer):
            self.read_blocks = sorted({block % settings.depth for block in settings.target.blocks})
            encoder.blocks = encoder.blocks[: self.read_blocks[-1] + 1]
            if settings.target.norm == "none":
                encoder.norm = nn.Identity()
        self.encoder = encoder

    def forward(self, clip: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Target features.

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
        """(B, M, D): where the grids agree and one block is read, the MLP of that block computes no others."""
        encoder = self.encoder
        if isinstance(encoder, TimmNetwork) or len(self.read_blocks) > 1 or self.grid != self.student_grid:
            return pick(self._features(clip), wanted)
        has_cls = int(self.settings.cls_token)
        # Every frame of an image teacher has a class token of its own.
        wanted = wanted + has_cls * (1 + wanted // math.prod(encoder.grid))
        return encoder.norm(run_blocks(encoder.blocks, encoder.embed(self._input(clip)), None, 0, wanted))

    @property
    def grid(self) -> Grid:
        """Its own (t, h, w) grid for a clip; an image teacher has a frame for each of the student's slots."""
        slots, rows, columns = self.encoder.grid
        return (self.student_grid[0] if self.settings.kind == "image" else slots, rows, columns)

    def _input(self, clip: Tensor) -> Tensor:
        """What the encoder takes of a clip: the clip, or the frames of an image teacher as clips of their own."""
        if self.settings.kind == "video":
            return clip
        frames = clip[:, :, self.settings.frame_in_tubelet :: self.student_tubelet_frames]
        return frames.transpose(1, 2).flatten(0, 1).unsqueeze(2)

    def _features(self, clip: Tensor) -> Tensor:
        given = self._input(clip)
        if isinstance(self.encoder, TimmNetwork):
            tokens = self.encoder(given.squeeze(2))
        else:
            tokens = self._read(self.encoder, given)[:, int(self.settings.cls_token) :]
        return resize_grid(tokens.unflatten(0, (len(clip), -1)).flatten(1, 2), self.grid, self.student_grid)

    def _read(self, encoder: VisionTransformer, clip: Tensor) -> Tensor:
        """Mean over the blocks that are read, each through the final norm or not."""
        tokens, start, outputs = encoder.embed(clip), 0, []
        for block in self.read_blocks:
            tokens = run_blocks(encoder.blocks[start : block + 1], tokens, None, 0)
            outputs.append(encoder.norm(tokens))
            start = block + 1
        if len(outputs) == 1:
            return outputs[0]
        return torch.stack(outputs).mean(dim=0, dtype=torch.float32).to(tokens.dtype)


def resize_grid(tokens: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """(B, N, D) on ``grid`` -> (B, N', D) on ``wanted``: linear along every axis, computed in fp32, cell centres aligned."""
    if grid == wanted:
        return tokens
    volume = tokens.float().transpose(1, 2).unflatten(2, grid)
    volume = F.interpolate(volume, size=wanted, mode="trilinear", align_corners=False)
    return volume.flatten(2).transpose(1, 2).to(tokens.dtype)


def plan_teacher(name: str, settings: TeacherSettings, recipe: TrainingRecipe) -> Blueprint[Teacher]:
    """A teacher whose weights were found to fit, before they take memory.

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
    """``plan_teacher``, built: in ``eval()`` and without gradients; fp32, on the CPU.

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
    """``plan_teacher`` outside of a recipe.

    Args:
        name: it enters random weights and messages.
        settings: its settings.
        frames: of the student's clip.
        size_px: side of the student's clip; the teacher's own is ``settings.input_px``.
        student_grid: (t, h, w) grid of the targets.
        student_tubelet_frames: frames of one of the student's tubelets.
        seed: of random weights.

    Raises:
        ConfigError: as ``plan_teacher``.
    """
    side, origin = settings.input_px or size_px, f"teachers.{name}"
    if settings.network is not None:
        network = build_timm_network(settings, side, seed, origin)
        return Built(Teacher(network, settings, student_grid, student_tubelet_frames).eval().requires_grad_(False))
    grid = settings.grid(1 if settings.kind == "image" else frames, side)
    if settings.is_random:
        encoder = Blueprint(
            lambda: VisionTransformer(settings, grid),
            lambda part, module: initialise_module(f"{origin}.{part}", module, seed),
        )
    else:
        encoder = plan_encoder(settings, grid, settings.weights, origin=f"{origin}.weights")
    if settings.target.norm == "final" and isinstance(encoder.structure.norm, nn.Identity):
        raise ConfigError(f"{origin}.target.norm final: {settings.weights} has no norm after its last block; choose none")

    def construct() -> Teacher:
        teacher = Teacher(encoder.construct(), settings, student_grid, student_tubelet_frames)
        return teacher.eval().requires_grad_(False)

    return Blueprint(construct, lambda part, module: encoder.fill(part.removeprefix("encoder."), module))
