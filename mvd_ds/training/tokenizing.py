"""The objective of a tokenizer: codes of a teacher's tokens from which these, or the pixels, can be reconstructed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.objectives.codebook import Codebook, FixedStandardiser, Start
from mvd_ds.objectives.diagnostics import mean_target_loss
from mvd_ds.objectives.losses import mixed_loss
from mvd_ds.objectives.moving_statistics import Statistics
from mvd_ds.objectives.targets.pixels import patchify, unpatchify
from mvd_ds.objectives.terms import LossTerms
from mvd_ds.training.device_batch import MaskedBatch, to_device
from mvd_ds.training.protocols import Inspect
from mvd_ds.training.step import FrozenTeacher, normalise, to_unit


class Tokenizing:
    """The forward pass and the losses of a tokenizer on one micro batch; its codes are among the ``statistics``.

    Args:
        network: a ``Tokenizer``, or the engine around one.
        teacher: the frozen teacher whose tokens become codes.
        perceptual: a frozen teacher that sees the reconstructed clip, with gradients; None: none does.
        start: finds the codes to begin with.
        dtype: precision of the clips that teachers are given.
    """

    def __init__(
        self,
        recipe: TokenizerRecipe,
        network: Any,
        teacher: FrozenTeacher,
        perceptual: Callable[[Tensor], Tensor] | None,
        start: Start,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.recipe, self.network, self.teacher, self.perceptual = recipe, network, teacher, perceptual
        self.dtype, self.device = dtype, device
        self.view = recipe.view_of(recipe.teacher)
        self.inspect: Inspect | None = None
        slots, rows, columns = recipe.grid
        step = recipe.batch.global_
        clips = -(-recipe.calibration_clips // step) * step
        self.codebook = Codebook(recipe.tokenizer, recipe.code_width, slots * rows * columns, step, clips, start).to(device)
        self.statistics: dict[str, Statistics] = {"codebook": self.codebook}
        self.standardiser: FixedStandardiser | None = None
        if recipe.tokenizer.standardise == "channel":
            self.standardiser = FixedStandardiser(recipe.token_width, recipe.tokenised).to(device)
            self.statistics["standardise"] = self.standardiser
        trained = ("commitment",) if recipe.tokenizer.method == "vq" else ()
        self.names: tuple[str, ...] = ("reconstruction", *trained, *(("perceptual",) if perceptual is not None else ()))

    def prepare(self, batches: Iterable[MaskedBatch]) -> Iterable[MaskedBatch]:
        """Return the micro batches of a step: no loss is over more than one of them."""
        return batches

    def observe(self, batch: MaskedBatch) -> None:
        """Collect the scale of the teacher's tokens, or the tokens in which the first codes are looked for."""
        inputs = to_device(batch, self.device)
        features = self.features(inputs)
        tokens = self.standardised(features)
        if self.standardiser is not None:
            self.standardiser.observe(features, tokens)
        if self.codebook.round is not None:
            self.codebook.observe(*self._encoded(tokens), inputs.place)

    def _encoded(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return what codes are chosen for, fp32 (B, N, d), and the codes, of a network that does not learn from it."""
        self.network.eval()
        given = self.network(tokens, self.codebook.vectors)
        self.network.train()
        return given["encoded"].float(), given["codes"]

    @torch.no_grad()
    def encode(self, batch: MaskedBatch) -> tuple[Tensor, Tensor]:
        """Return what codes are chosen for, fp32 (B, N, d), and the codes int64 (B, N); nothing is learned. Collective."""
        return self._encoded(self.standardised(self.features(to_device(batch, self.device))))

    @torch.no_grad()
    def features(self, inputs: MaskedBatch) -> Tensor:
        """Return the teacher's tokens (B, N, D) of a batch on the device."""
        given = self.teacher(normalise(to_unit(inputs.views[self.view]), self.dtype))
        return given if isinstance(given, Tensor) else given[self.recipe.tokenised]

    def standardised(self, features: Tensor) -> Tensor:
        """Return tokens fp32 (B, N, D) on the scale that the tokenizer has them on."""
        return features.float() if self.standardiser is None else self.standardiser(features)

    def __call__(self, batch: MaskedBatch, measure: bool) -> LossTerms:
        """Return the losses of one micro batch.

        Args:
            measure: also say how far from trivial the reconstruction is.
        """
        inputs = to_device(batch, self.device)
        tokens = self.standardised(self.features(inputs))
        if self.inspect is not None:
            self.inspect(f"tokens of {self.recipe.tokenised}", tokens)
        uniforms = inputs.drop_path.flatten(0, 1)
        given = self.network(tokens, self.codebook.vectors, uniforms if uniforms.shape[1] else None)
        encoded = given["encoded"].float()
        self.codebook.observe(encoded.detach(), given["codes"], inputs.place)
        target, loss = self._target(tokens, inputs)
        losses = {"reconstruction": mixed_loss(loss, given["prediction"], target)}
        total = losses["reconstruction"]
        if "commitment" in self.names:
            losses["commitment"] = functional.mse_loss(encoded, given["chosen"])
            total = total + self.recipe.tokenizer.commitment * losses["commitment"]
        if self.perceptual is not None:
            name = self.recipe.tokenizer.perceptual
            assert name is not None
            losses["perceptual"] = self._perceive(given["prediction"], inputs, self.perceptual)
            total = total + self.recipe.teachers[name].weight * losses["perceptual"]
        told = {name: value.detach() for name, value in losses.items()}
        if not measure:
            return LossTerms(total, told)
        relative = told["reconstruction"] / mean_target_loss(target, loss).clamp_min(1e-12)
        return LossTerms(total, told, {"loss_relative/reconstruction": relative})

    def _target(self, tokens: Tensor, inputs: MaskedBatch) -> tuple[Tensor, Any]:
        """Return what is reconstructed, fp32 (B, N, P), and the loss against it."""
        pixels, model = self.recipe.pixels, self.recipe.model
        if pixels is None:
            return tokens, "cosine"
        return patchify(self._clip(inputs), model.tubelet_frames, model.patch_px), pixels.loss

    def _clip(self, inputs: MaskedBatch) -> Tensor:
        return to_unit(inputs.views[self.recipe.data.clip.size_px])

    def _perceive(self, prediction: Tensor, inputs: MaskedBatch, perceptual: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the loss between what a teacher makes of the reconstructed clip and of the clip itself."""
        name, model = self.recipe.tokenizer.perceptual, self.recipe.model
        assert name is not None
        clip = unpatchify(prediction.float(), self.recipe.grid, model.tubelet_frames, model.patch_px)
        with torch.no_grad():
            wanted = perceptual(normalise(self._clip(inputs), self.dtype))
        return mixed_loss(self.recipe.teachers[name].loss, perceptual(normalise(clip, self.dtype)), wanted)
