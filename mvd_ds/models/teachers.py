"""Frozen encoders that give the targets of stage two."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mvd_ds.config import ATTENTION, ConfigError, Grid, TargetSettings, TeacherSettings, TrainingRecipe
from mvd_ds.config.tokenizers.card import require_same_teacher
from mvd_ds.models.blueprint import Blueprint
from mvd_ds.models.layers import pick
from mvd_ds.models.networks import FrozenNetwork, Reading, family_of
from mvd_ds.models.readouts.prototypes import PrototypeHead
from mvd_ds.models.resampling import read_slots, resample_frames, resize_grid, slot_weights
from mvd_ds.models.tokenizers.frozen import plan_tokenizers

logger = logging.getLogger(__name__)

Given = Tensor | dict[str, Tensor]
"""The output of a teacher: one tensor, or several by name of the output."""


class Teacher(nn.Module):
    """A frozen network that gives what its targets are made of, on the student's token grid.

    Args:
        name: its name, which is the name of its first target.
        network: the network with its weights.
        settings: which features, and how many clips at once.
        student_grid: (t, h, w) grid of the targets.
        student_tubelet_frames: an image teacher sees one frame of each of the student's tubelets.
        time_step: time from one of its frames to the next, in that of the student's clip; None: both clips last as long.
        tokenizers: what turns tokens into codes, by name of the output, for targets that are codes.
    """

    def __init__(
        self,
        name: str,
        network: FrozenNetwork,
        settings: TeacherSettings,
        student_grid: Grid,
        student_tubelet_frames: int,
        time_step: float | None = None,
        tokenizers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.settings = name, settings
        self.student_grid = student_grid
        self.student_tubelet_frames = student_tubelet_frames
        self.network = network
        self.encoder = network.module
        self.time_step = time_step
        self.tokenizers = nn.ModuleDict(tokenizers or {})
        heads = {key: target.prototypes for key, target in settings.targets.items() if target.kind == "prototypes"}
        if heads:  # under the names that they have in the student
            made = {name + key: nn.ModuleDict({"head": PrototypeHead(network.embed_dim, own)}) for key, own in heads.items()}
            self.decoders = nn.ModuleDict(made)

    def forward(self, clip: Tensor, wanted: Tensor | None = None) -> Given:
        """Return what its targets are made of.

        Args:
            clip: (B, C, T, H, W) normalised, at the teacher's own size.
            wanted: (B, M) int64, tokens of the student's grid that are read; None: all.

        Returns:
            Features (B, M, D), or (B, N, D) with N of the student's grid, of its one target; D is that of all its blocks where
            they are not averaged, 1 for codes, which are int64. A dict by name of the output where it has more targets, with the
            attention (B, N) that each token gets as ``attention`` where masks are drawn from it.
        """
        chunk = self.settings.chunk_clips or len(clip)
        parts = clip.split(chunk)
        chosen = [None] * len(parts) if wanted is None else wanted.split(chunk)
        found = [self._outputs(part, tokens) for part, tokens in zip(parts, chosen, strict=True)]
        joined = {name: torch.cat([outputs[name] for outputs in found]) for name in found[0]}
        return joined[self.name] if joined.keys() == {self.name} else joined

    def _outputs(self, clip: Tensor, wanted: Tensor | None) -> dict[str, Tensor]:
        """Return its outputs by name; where the grids agree, a selective network computes no unwanted tokens in the end."""
        is_selective = wanted is not None and self.network.is_selective and self.is_on_grid
        reading = self.network.read(self._input(clip), wanted if is_selective else None)
        found = {}
        for suffix, target in self.settings.targets.items():
            if target.kind == "summary":
                found[self.name + suffix] = self._summary(reading, target, len(clip))
                continue
            features = self._relations(reading, target) if target.kind == "relations" else self._features(reading, target)
            tokens = features if is_selective else pick(self._on_grid(features, len(clip)), wanted)
            if target.kind == "prototypes":
                tokens = self._assigned(self.name + suffix, tokens, self._summary(reading, target, len(clip)))
            found[self.name + suffix] = self._codes(self.name + suffix, tokens) if target.kind == "codes" else tokens
        if reading.attention:
            rows = torch.stack([*reading.attention.values()]).mean(dim=0)
            found[ATTENTION] = self._on_grid(rows[..., None], len(clip))[..., 0]
        return found

    @property
    def grid(self) -> Grid:
        """Its own (t, h, w) grid for a clip; an image teacher has a frame for each of the student's slots."""
        slots, rows, columns = self.network.grid
        return (self.student_grid[0] if self.settings.kind == "image" else slots, rows, columns)

    @property
    def is_on_grid(self) -> bool:
        """True if nothing is resampled: its tokens are those of the student's grid, at the same times."""
        return self.time_step is None and self.grid == self.student_grid

    @property
    def read_blocks(self) -> list[int]:
        """Blocks of its network that are read, ascending."""
        return list(self.network.reads.outputs)

    def _input(self, clip: Tensor) -> Tensor:
        """Return what the network takes of a clip: the clip, or the frames of an image teacher as clips of their own."""
        if self.settings.kind == "video":
            count, how = self.settings.input_frames, self.settings.time
            return clip if count is None or how in (None, "own_clip") else resample_frames(clip, count, how)
        frames = clip[:, :, self.settings.frame_in_tubelet :: self.student_tubelet_frames]
        return frames.transpose(1, 2).flatten(0, 1).unsqueeze(2)

    def _features(self, reading: Reading, target: TargetSettings) -> Tensor:
        """Return the tokens of a target's blocks: their mean, or side by side."""
        blocks = sorted({block % self.network.block_count for block in target.blocks})
        tokens = [reading.tokens[block] for block in blocks]
        if len(tokens) == 1:
            return tokens[0]
        if target.mode == "mean":
            return torch.stack(tokens).mean(dim=0, dtype=torch.float32).to(tokens[0].dtype)
        return torch.cat(tokens, dim=-1)

    def _assigned(self, name: str, tokens: Tensor, summary: Tensor) -> Tensor:
        """Return logits over prototypes (B, P + 1, outputs) of patches (B, P, D), then of the class token (B, D)."""
        logits: Tensor = self.decoders.get_submodule(f"{name}.head")(torch.cat((tokens, summary[:, None]), dim=1))
        return logits

    def _codes(self, output: str, tokens: Tensor) -> Tensor:
        """Return the codes int64 (B, N, 1) of tokens: a tokenizer's, or the largest logit of a network that gives logits."""
        if output not in self.tokenizers:
            return tokens.argmax(dim=-1, keepdim=True)
        codes: Tensor = self.tokenizers[output](tokens)
        return codes

    def _relations(self, reading: Reading, target: TargetSettings) -> Tensor:
        """Return queries, keys and values (B, N, 3 * heads * d) of a target's block, packed in this order."""
        return reading.qkv[target.blocks[0] % self.network.block_count].flatten(2)

    def _summary(self, reading: Reading, target: TargetSettings, clips: int) -> Tensor:
        """Return one vector (clips, D) of each clip; an image teacher has one for each frame, and they are averaged."""
        block = target.blocks[0] % self.network.block_count
        vectors = reading.summaries[block][:, None] if target.summary == "own" else reading.tokens[block]
        return vectors.unflatten(0, (clips, -1)).mean(dim=(1, 2), dtype=torch.float32).to(vectors.dtype)

    def _on_grid(self, tokens: Tensor, clips: int) -> Tensor:
        """Return the tokens of the inputs of ``clips`` as (clips, N, D) with N of the student's grid."""
        tokens, grid = tokens.unflatten(0, (clips, -1)).flatten(1, 2), self.grid
        if self.time_step is not None:
            slots, tubelet = self.student_grid[0], self.settings.tubelet_frames
            weights = slot_weights(grid[0], tubelet, slots, self.student_tubelet_frames, self.time_step, tokens.device)
            tokens, grid = read_slots(tokens, weights), (slots, *grid[1:])
        return resize_grid(tokens, grid, self.student_grid)


def plan_teacher(name: str, settings: TeacherSettings, recipe: TrainingRecipe) -> Blueprint[Teacher]:
    """Return a teacher whose weights were found to fit, before they take memory.

    Args:
        name: its name under ``teachers``.
        settings: its settings.
        recipe: the run it teaches in.

    Raises:
        ConfigError: if its weights are missing, do not fit, or describe another architecture than ``settings``.
    """
    for suffix, target in settings.targets.items():
        if target.kind == "codes" and target.codebook is not None:
            where = f"teachers.{name}.{f'more_targets.{suffix[1:]}' if suffix else 'target'}.codebook"
            require_same_teacher(recipe, name, target, where)
    clip = recipe.data.clip
    step = settings.time_step(clip) if settings.input_stride is not None else None
    tubelet, seed = recipe.model.tubelet_frames, recipe.run.seed
    return plan_lone_teacher(name, settings, clip.frames, clip.size_px, recipe.grid, tubelet, seed, step)


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
    time_step: float | None = None,
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
        time_step: time from one of its frames to the next, in that of the student's clip; None: both clips last as long.

    Raises:
        ConfigError: as ``plan_teacher``.
    """
    side, origin = settings.input_px or size_px, f"teachers.{name}"
    planned = family_of(settings).plan(settings, settings.input_frames or frames, side, seed, origin)
    if settings.target.norm == "final" and not planned.has_final_norm:
        raise ConfigError(f"{origin}.target.norm final: {settings.weights} has no norm after its last block; choose none")

    if settings.gives_attention and not family_of(settings).gives_attention:
        raise ConfigError(f"masking.teacher {name}: {settings.network} does not give its attention; name a teacher that does")
    tokenizers = plan_tokenizers(name, settings)
    for line in _resampling(settings, frames, side, student_grid, time_step):
        logger.info("%s: %s", origin, line)

    def wrap(module: nn.Module) -> Teacher:
        network = planned.adapt(module)
        parts = {output: tokenizer.construct() for output, tokenizer in tokenizers.items()}
        teacher = Teacher(name, network, settings, student_grid, student_tubelet_frames, time_step, parts)
        return teacher.eval().requires_grad_(False)

    def fill(part: str, module: nn.Module) -> None:
        _, is_tokenizer, inside = part.partition("tokenizers.")
        if is_tokenizer:
            output, _, own = inside.partition(".")
            tokenizers[output].fill(own, module)
        else:
            planned.blueprint.fill(part.removeprefix("encoder."), module)

    return Blueprint(lambda: wrap(planned.blueprint.construct()), fill)


def _resampling(settings: TeacherSettings, frames: int, side: int, student_grid: Grid, time_step: float | None) -> Iterator[str]:
    """Yield sentences on what is resampled between a teacher and its student."""
    count, image = settings.input_frames or frames, settings.kind == "image"
    if settings.time == "own_clip":
        step = time_step or frames / count
        yield f"sees {count} frames of its own from the moment of the student's {frames}, {step:g} of their time apart"
    elif count != frames:
        yield f"sees {count} frames made of the student's {frames} (time: {settings.time})"
    grid = (student_grid[0], *settings.frame_grid(side)) if image else settings.grid(count, side)
    if grid != student_grid:
        yield f"features on its grid {grid} are resized to the student's {student_grid}, linear in time, bilinear in space"
