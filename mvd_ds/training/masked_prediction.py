"""The objective of both stages: predict the targets at the places that the student did not see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import LANGUAGE, TrainingRecipe
from mvd_ds.objectives.balance import build_balance
from mvd_ds.objectives.diagnostics import effective_rank
from mvd_ds.objectives.targets import Places, Target, target_statistics
from mvd_ds.objectives.terms import LossTerms, added, combine
from mvd_ds.training.device_batch import MaskedBatch, to_device
from mvd_ds.training.device_crops import OwnViews
from mvd_ds.training.language import CaptionLoss, Pairs
from mvd_ds.training.protocols import Inspect
from mvd_ds.training.prototype_inputs import PrototypeInputs
from mvd_ds.training.step import TargetSource, normalise, to_unit

#: Tokens whose singular values give the effective rank.
RANK_TOKENS = 1024


class MaskedPrediction:
    """The forward pass and the losses of masked prediction on one micro batch.

    Args:
        student: a MaskedPredictor, or the engine around one.
        targets: makes what is to be predicted.
        captions: the loss of captions, for a student with ``language``.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        student: Any,
        targets: TargetSource,
        device: torch.device,
        captions: CaptionLoss | None = None,
    ) -> None:
        self.student, self.targets, self.device, self.captions = student, targets, device, captions
        self.size_px, self.clips_per_step = recipe.data.clip.size_px, recipe.batch.global_
        self.names = (*targets.terms, *([LANGUAGE] if captions is not None else []))
        self.prototype_inputs, self.own_views = PrototypeInputs(recipe), OwnViews(recipe)
        self.without_pictures = [
            name
            for name, output in recipe.outputs.items()
            if output.teacher is not None and recipe.teachers[output.teacher].kind != "image"
        ]
        self.inspect: Inspect | None = None
        self.balance = build_balance(recipe, targets.terms).to(device)
        for target in targets.terms.values():
            target.to(device)
        self.statistics = target_statistics(targets.terms)
        self.statistics |= {f"{name}.balance": part for name, part in self.balance.statistics().items()}

    def observe(self, batch: MaskedBatch) -> None:
        """Collect the statistics of a micro batch's targets without learning from it, for the calibration."""
        inputs, given = self.targets.draw(to_device(batch, self.device))
        self.balance.observe(self.targets(inputs, given, observed=True), self._places(inputs))

    def prepare(self, batches: Iterable[MaskedBatch]) -> Iterable[MaskedBatch]:
        """Return the micro batches of a step, for the losses of captions after a look at all of them. Collective."""
        return batches if self.captions is None else self.captions.prepare(batches, self._vectors)

    def _vectors(self, batch: MaskedBatch) -> Pairs:
        """Return the vectors of the clips and captions of a micro batch, as the step will compute them."""
        inputs, _ = self.targets.draw(to_device(batch, self.device))
        model = getattr(self.student, "module", self.student)
        return Pairs.of(self.student(*self._seen(inputs, model), captions=inputs.captions, pairs_alone=True))

    def __call__(self, batch: MaskedBatch, measure: bool) -> LossTerms:
        """Return the losses of one micro batch.

        Args:
            measure: also say how far from trivial the student is.
        """
        inputs, given = self.targets.draw(to_device(batch, self.device))
        targets, places = self.targets(inputs, given, observed=True), self._places(inputs)
        self.balance.observe(targets, places)
        for name, target in targets.items() if self.inspect is not None else ():
            self.inspect(f"targets of {name}", target)
        model = getattr(self.student, "module", self.student)
        with EncoderTokens(model.encoder, measure) as tokens:
            more: dict[str, Any] = {"labelled": inputs.labels[:, 0] >= 0} if "labels" in targets else {}
            more |= {"captions": inputs.captions} if self.captions is not None else {}
            more |= self._prototype_inputs(inputs, model)
            predictions = self.student(*self._seen(inputs, model), **more)
        uniforms = None if inputs.teacher_uniforms is None else inputs.teacher_uniforms.flatten(0, 1)
        pairs = Pairs.of(predictions) if self.captions is not None else None
        factors = self._factors(inputs)
        losses = [combine(predictions, targets, self.targets.terms, places, self.balance, uniforms, factors)] if targets else []
        if self.captions is not None and pairs is not None:
            losses.append(self.captions(batch, pairs, measure))
        loss = losses[0] if len(losses) == 1 else added(*losses)
        if tokens.value is None:
            return loss
        measured = measure_features(predictions, targets, loss, self.targets.terms, tokens.value, factors)
        return loss._replace(measurements=loss.measurements | measured)

    def _places(self, inputs: MaskedBatch) -> Places:
        return Places(inputs.visible, inputs.masked, inputs.place[0] // self.clips_per_step)

    def _factors(self, inputs: MaskedBatch) -> dict[str, Tensor]:
        """Return (B*K,), the factor of each sample in the mean of each loss that pictures have no part in."""
        if inputs.counted is None:
            return {}
        return dict.fromkeys(self.without_pictures, inputs.counted.repeat_interleave(inputs.masked.shape[1]))

    def _prototype_inputs(self, inputs: MaskedBatch, model: torch.nn.Module) -> dict[str, Tensor]:
        """Return what a head of prototypes takes beside the clip, its local crops as the student takes clips."""
        given = self.prototype_inputs(inputs)
        if "local" in given:
            given["local"] = normalise(given["local"], next(model.parameters()).dtype)
        return given

    def _seen(self, inputs: MaskedBatch, model: torch.nn.Module) -> tuple[Tensor, ...]:
        """Return the student's clips, normalised, in the precision of its weights, visible and masked tokens, and drop path.

        They are those of B clips with K masks each, or where each mask is of a view of its own, of B*K clips with one.
        """
        clips = self.own_views.clips(to_unit(inputs.views[self.size_px]), inputs)
        masks = (self.own_views.rows(part) for part in (inputs.visible, inputs.masked, inputs.drop_path))
        return normalise(clips, next(model.parameters()).dtype), *masks


def measure_features(
    predictions: dict[str, Tensor],
    targets: dict[str, Tensor],
    loss: LossTerms,
    terms: Mapping[str, Target],
    tokens: Tensor,
    factors: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Measure how far from trivial the student is: loss over that of the mean target, variances, rank.

    Args:
        predictions, targets: (B*K, M, D) by name.
        tokens: (B*K, V, D) encoder output.
        factors: (B*K,) by name, 0 where a sample has no part in a loss.

    Returns:
        Scalars by metric name.
    """
    values: dict[str, Tensor] = {}
    for name, target in targets.items():
        if name not in (factors or {}):
            values |= terms[name].measure(predictions[name], target, loss.terms[name])
    samples = tokens.flatten(0, 1)
    values["student/effective_rank"] = effective_rank(samples[:: max(len(samples) // RANK_TOKENS, 1)][:RANK_TOKENS])
    return values


class EncoderTokens:
    """A context that keeps the student's encoder output (B*K, V, D) of the forward pass inside, when ``wanted``."""

    def __init__(self, encoder: torch.nn.Module, wanted: bool) -> None:
        self.encoder, self.wanted = encoder, wanted
        self.value: Tensor | None = None

    def _keep(self, module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
        self.value = output.detach()

    def __enter__(self) -> EncoderTokens:
        if self.wanted:
            self.hook = self.encoder.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            self.hook.remove()
