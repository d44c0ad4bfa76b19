"""The objective of a tokenizer: codes of a teacher's tokens, or of clips, from which either can be reconstructed."""

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
        teacher: the frozen teacher whose tokens become codes, or are what codes reconstruct; None: no tokens are read.
        perceptual: a frozen teacher that sees the reconstructed clip, with gradients; None: none does.
        start: finds the codes to begin with.
        dtype: precision of the clips that teachers are given.
    """

    def __init__(
        self,
        recipe: TokenizerRecipe,
        network: Any,
        teacher: FrozenTeacher | None,
        perceptual: Callable[[Tensor], Tensor] | None,
        start: Start,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.recipe, self.network, self.teacher, self.perceptual = recipe, network, teacher, perceptual
        self.dtype, self.device = dtype, device
        self.inspect: Inspect | None = None
        slots, rows, columns = recipe.grid
        step = recipe.batch.global_
        clips = -(-recipe.calibration_clips // step) * step
        self.codebook = Codebook(recipe.tokenizer, recipe.code_width, slots * rows * columns, step, clips, start).to(device)
        self.statistics: dict[str, Statistics] = {"codebook": self.codebook}
        self.standardiser: FixedStandardiser | None = None
        if recipe.standardises and recipe.tokenised is not None:
            self.standardiser = FixedStandardiser(recipe.feature_width, recipe.tokenised).to(device)
            self.statistics["standardise"] = self.standardiser
        trained = ("commitment",) if recipe.tokenizer.method == "vq" else ()
        self.names: tuple[str, ...] = ("reconstruction", *trained, *(("perceptual",) if perceptual is not None else ()))

    def prepare(self, batches: Iterable[MaskedBatch]) -> Iterable[MaskedBatch]:
        """Return the micro batches of a step: no loss is over more than one of them."""
        return batches

    def observe(self, batch: MaskedBatch) -> None:
        """Collect the scale of the teacher's tokens, or the vectors in which the first codes are looked for."""
        inputs = to_device(batch, self.device)
        features = self._features(inputs)
        tokens = self._standardised(features)
        if self.standardiser is not None and features is not None and tokens is not None:
            self.standardiser.observe(features, tokens)
        if self.codebook.round is not None:
            given = self._look(self._seen(inputs, tokens))
            self.codebook.observe(given["encoded"].float(), given["codes"], inputs.place)

    @torch.no_grad()
    def look(self, batch: MaskedBatch) -> dict[str, Tensor]:
        """Return what becomes of a batch, nothing is learned; see ``Tokenizer``. Collective."""
        inputs = to_device(batch, self.device)
        return self._look(self._seen(inputs, self._standardised(self._features(inputs))))

    def reconstructed(self, prediction: Tensor) -> Tensor | None:
        """Return predictions (B, N, P) as clips fp32 (B, C, T, H, W) in [0, 1], but for what is out of it; None for features."""
        if self.recipe.pixels is None:
            return None
        model = self.recipe.model
        return unpatchify(prediction.float(), self.recipe.grid, model.tubelet_frames, model.patch_px)

    def _look(self, seen: Tensor) -> dict[str, Tensor]:
        """Return what becomes of ``seen`` in a network that does not learn from it."""
        self.network.eval()
        given: dict[str, Tensor] = self.network(seen, self.codebook.vectors)
        self.network.train()
        return given

    @torch.no_grad()
    def _features(self, inputs: MaskedBatch) -> Tensor | None:
        """Return the teacher's tokens (B, N, D) of a batch on the device."""
        name = self.recipe.tokenised
        if self.teacher is None or name is None:
            return None
        view = self.recipe.view_of(self.recipe.teachers[name])
        given = self.teacher(normalise(to_unit(inputs.views[view]), self.dtype))
        return given if isinstance(given, Tensor) else given[name]

    def _standardised(self, features: Tensor | None) -> Tensor | None:
        """Return tokens fp32 (B, N, D) on the scale that the tokenizer has them on."""
        return features if features is None else features.float() if self.standardiser is None else self.standardiser(features)

    def _seen(self, inputs: MaskedBatch, tokens: Tensor | None) -> Tensor:
        """Return what the network sees: standardised tokens, or the clips."""
        if self.recipe.sees_pixels:
            return normalise(self._clip(inputs), self.dtype)
        assert tokens is not None
        return tokens

    def __call__(self, batch: MaskedBatch, measure: bool) -> LossTerms:
        """Return the losses of one micro batch.

        Args:
            measure: also say how far from trivial the reconstruction is.
        """
        inputs = to_device(batch, self.device)
        tokens = self._standardised(self._features(inputs))
        if self.inspect is not None and tokens is not None:
            self.inspect(f"tokens of {self.recipe.tokenised}", tokens)
        uniforms = inputs.drop_path.flatten(0, 1)
        given = self.network(self._seen(inputs, tokens), self.codebook.vectors, uniforms if uniforms.shape[1] else None)
        encoded = given["encoded"].float()
        self.codebook.observe(encoded.detach(), given["codes"], inputs.place)
        target, loss = self._target(tokens, inputs)
        losses = {"reconstruction": mixed_loss(loss, given["prediction"], target)}
        total = losses["reconstruction"]
        if "commitment" in self.names:
            losses["commitment"] = functional.mse_loss(encoded, given["chosen"])
            total = total + self.recipe.tokenizer.commitment * losses["commitment"]
        if self.perceptual is not None:
            losses["perceptual"], weight = self._perceive(given["prediction"], inputs, self.perceptual)
            total = total + weight * losses["perceptual"]
        told = {name: value.detach() for name, value in losses.items()}
        if not measure:
            return LossTerms(total, told)
        relative = told["reconstruction"] / mean_target_loss(target, loss).clamp_min(1e-12)
        return LossTerms(total, told, {"loss_relative/reconstruction": relative})

    def _target(self, tokens: Tensor | None, inputs: MaskedBatch) -> tuple[Tensor, Any]:
        """Return what is reconstructed, fp32 (B, N, P), and the loss against it."""
        pixels, model = self.recipe.pixels, self.recipe.model
        if pixels is None:
            assert tokens is not None
            return tokens, "cosine"
        return patchify(self._clip(inputs), model.tubelet_frames, model.patch_px), pixels.loss

    def _clip(self, inputs: MaskedBatch) -> Tensor:
        return to_unit(inputs.views[self.recipe.data.clip.size_px])

    def _perceive(self, prediction: Tensor, inputs: MaskedBatch, perceptual: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
        """Return the loss between what a teacher makes of the reconstructed clip and of the clip itself, and its weight."""
        name, clip = self.recipe.tokenizer.perceptual, self.reconstructed(prediction)
        assert name is not None and clip is not None
        settings = self.recipe.teachers[name]
        with torch.no_grad():
            wanted = perceptual(normalise(self._clip(inputs), self.dtype))
        return mixed_loss(settings.loss, perceptual(normalise(clip, self.dtype)), wanted), settings.weight
