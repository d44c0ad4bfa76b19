"""Frozen encoders that give the targets of stage two."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import Grid, TeacherSettings, TrainingRecipe
from mvd_ds.models.initialisation import build_without_weights, initialise
from mvd_ds.models.layers import run_blocks
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import load_encoder


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
        self, encoder: VisionTransformer, settings: TeacherSettings, student_grid: Grid, student_tubelet_frames: int
    ) -> None:
        super().__init__()
        self.settings = settings
        self.student_grid = student_grid
        self.student_tubelet_frames = student_tubelet_frames
        self.read_blocks = sorted({block % settings.depth for block in settings.target.blocks})
        encoder.blocks = encoder.blocks[: self.read_blocks[-1] + 1]
        if settings.target.norm == "none":
            encoder.norm = nn.Identity()
        self.encoder = encoder

    def forward(self, clip: Tensor) -> Tensor:
        """Target features.

        Args:
            clip: (B, C, T, H, W) normalised, at the teacher's own size.

        Returns:
            (B, N, D), N of the student's grid.
        """
        chunk = self.settings.chunk_clips or len(clip)
        return torch.cat([self._features(part) for part in clip.split(chunk)])

    def _features(self, clip: Tensor) -> Tensor:
        slots = 1
        if self.settings.kind == "image":
            frames = clip[:, :, self.settings.frame_in_tubelet :: self.student_tubelet_frames]
            slots = frames.shape[2]
            clip = frames.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        tokens = self._read(clip)[:, int(self.settings.cls_token) :]
        tokens = tokens.unflatten(0, (-1, slots)).flatten(1, 2)
        _, rows, columns = self.encoder.grid
        return resize_grid(tokens, (tokens.shape[1] // (rows * columns), rows, columns), self.student_grid)

    def _read(self, clip: Tensor) -> Tensor:
        """Mean over the blocks that are read, each through the final norm or not."""
        tokens, start, outputs = self.encoder.embed(clip), 0, []
        for block in self.read_blocks:
            tokens = run_blocks(self.encoder.blocks[start : block + 1], tokens, None, 0)
            outputs.append(self.encoder.norm(tokens))
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


def build_teacher(name: str, settings: TeacherSettings, recipe: TrainingRecipe) -> Teacher:
    """A teacher with its weights, in ``eval()`` and without gradients; fp32, on the CPU.

    Args:
        name: its name under ``teachers``.
        settings: its settings.
        recipe: the run it teaches in.

    Raises:
        ConfigError: if its weights are missing, do not fit, or describe another architecture than ``settings``.
    """
    size_px = settings.input_px or recipe.data.clip.size_px
    grid = settings.grid(1 if settings.kind == "image" else recipe.data.clip.frames, size_px)
    encoder = build_without_weights(lambda: VisionTransformer(settings, grid))
    if settings.is_random:
        initialise(encoder, recipe.run.seed, prefix=f"teachers.{name}")
    else:
        load_encoder(encoder, settings, settings.weights, origin=f"teachers.{name}.weights")
    teacher = Teacher(encoder, settings, recipe.grid, recipe.model.tubelet_frames)
    return teacher.eval().requires_grad_(False)
