"""Standardisation, balance and dropping of teachers as formulas over the tokens of whole steps, for the plain loop.

Nothing of ``mvd_ds.objectives`` is used: fp64 in numpy, one step's tokens at once, one sample after the other.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from mvd_ds.config import TrainingRecipe
from mvd_ds.data.batch import ClipBatch


class PlainTargets:
    """The state that targets and balance have in a step, made from the tokens of the steps before."""

    def __init__(self, recipe: TrainingRecipe) -> None:
        self.recipe = recipe
        self.names = [name for name, output in recipe.outputs.items() if output.target is not None]
        targets = {name: recipe.outputs[name].target for name in self.names}
        self.summaries = [name for name, target in targets.items() if target.kind == "summary"]
        self.is_scaled = recipe.balance != "fixed" or recipe.drop_teachers > 0
        self.is_needed = self.is_scaled or bool(self.summaries)
        self.dispersions: dict[str, float] = {}
        self.seen: dict[str, list[torch.Tensor]] = {name: [] for name in self.names}
        self.centres = {name: PlainCentres(recipe, name) for name, target in targets.items() if target.kind == "prototypes"}

    def begin(self, first: list[tuple[dict[str, torch.Tensor], ClipBatch]]) -> None:
        """Estimate the state from what the calibration clips are learnt from, micro batch by micro batch."""
        for name in self.summaries:
            unit = np.concatenate([sources[name].double().numpy() for sources, _ in first])
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
            mean = unit.mean(axis=0)
            self.dispersions[name] = float((np.arccos(unit @ mean / np.linalg.norm(mean)) ** 2).mean())
        if not self.is_scaled:
            return
        tokens = {name: _tokens([_masked(sources[name], batch) for sources, batch in first]) for name in self.names}
        self.scale = {name: self._begun(name, values) for name, values in tokens.items()}
        made = {name: self.standardised(name, torch.from_numpy(values)).numpy() for name, values in tokens.items()}
        self.mean = {name: _mean(values) for name, values in made.items()}
        self.trivial = {name: self._trivial(name, values) for name, values in made.items()}

    def terms(
        self, predictions: dict[str, torch.Tensor], sources: dict[str, torch.Tensor], batch: ClipBatch
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the total of a micro batch under one mask, and the loss of each target."""
        losses = {}
        for name in self.names:
            raw = _masked(sources[name], batch)
            self.seen[name].append(raw)
            losses[name] = plain_rows(self.recipe, name, predictions[name], self.standardised(name, raw))
        uniforms = None if batch.teacher_uniforms is None else batch.teacher_uniforms[:, 0]
        total = self.total(losses, predictions.get("balance.log_variances"), uniforms)
        return total, {name: loss.mean().item() for name, loss in losses.items()}

    def standardised(self, name: str, raw: torch.Tensor) -> torch.Tensor:
        """Return the targets of raw features, fp32."""
        mean, matrix = self.scale[name]
        return ((raw.double() - torch.from_numpy(mean)) @ torch.from_numpy(matrix).T).float()

    def total(
        self, losses: dict[str, torch.Tensor], log_variances: torch.Tensor | None, uniforms: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the total of a micro batch from the losses of its samples by name."""
        scaled = {}
        for number, (name, loss) in enumerate(losses.items()):
            scaled[name] = loss / self.trivial[name] if self.recipe.balance == "loss_relative" else loss
            if log_variances is not None:
                scaled[name] = (torch.exp(-log_variances[number]) * loss + log_variances[number]) / 2
        weights = {name: self.recipe.teachers[name].weight for name in losses}
        rows = len(next(iter(losses.values())))
        total = torch.zeros(())
        for row in range(rows):
            worst = max(scaled, key=lambda name: float(scaled[name][row]))
            alive = [
                name
                for column, name in enumerate(scaled)
                if name == worst or uniforms is None or float(uniforms[row, column]) >= self.recipe.drop_teachers
            ]
            share = sum(weights.values()) / sum(weights[name] for name in alive)
            for name in alive:
                total = total + share * weights[name] * scaled[name][row] / rows
        return total

    def end_step(self, progress: float) -> None:
        """Move the state by all tokens of the step."""
        for centres in self.centres.values():
            centres.end_step()
        momentum = 0.001 + (1 - 0.001) * (1 + math.cos(math.pi * progress)) / 2
        for name, parts in self.seen.items() if self.is_scaled else ():
            made = np.concatenate([self.standardised(name, part).double().numpy().reshape(-1, part.shape[-1]) for part in parts])
            trivial = self._trivial(name, made)
            self.trivial[name] = 0.99 * self.trivial[name] + 0.01 * trivial
            self.mean[name] = 0.99 * self.mean[name] + 0.01 * made.mean(axis=0)
            if self.recipe.outputs[name].target.standardise == "running":
                tokens = _tokens(parts)
                mean, matrix = self.scale[name]
                deviation = 1 / matrix.diagonal()
                mean = (1 - momentum) * mean + momentum * tokens.mean(axis=0)
                deviation = (1 - momentum) * deviation + momentum * tokens.std(axis=0)
                self.scale[name] = (mean, np.diag(1 / deviation))
            parts.clear()

    def _begun(self, name: str, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what is taken from a token, and the matrix that it is multiplied by."""
        kind, width = self.recipe.outputs[name].target.standardise, tokens.shape[1]
        if kind == "running":
            return tokens.mean(axis=0), np.diag(1 / tokens.std(axis=0))
        if kind == "phi_s":
            variances, vectors = np.linalg.eigh(np.cov(tokens, rowvar=False, bias=True))
            vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])
            hadamard = np.ones((1, 1))
            while len(hadamard) < width:
                hadamard = np.kron([[1.0, 1.0], [1.0, -1.0]], hadamard)
            return tokens.mean(axis=0), hadamard / math.sqrt(width) @ vectors.T / math.sqrt(variances.mean())
        return np.zeros(width), np.eye(width)

    def _trivial(self, name: str, tokens: np.ndarray) -> float:
        """Return the loss of always predicting the mean of now."""
        targets = torch.from_numpy(tokens)
        constant = torch.from_numpy(self.mean[name]).expand_as(targets)
        return float(plain_rows(self.recipe, name, constant[None], targets[None]))


class PlainCentres:
    """The centres of a head of prototypes and its temperature, from the logits of the steps before, and the loss pair by pair."""

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        self.settings, self.clips = recipe.outputs[name].target.prototypes, recipe.data.clips_per_video
        self.centres = {part: np.zeros(self.settings.outputs) for part in ("patch", "class")}
        self.seen: dict[str, list[np.ndarray]] = {part: [] for part in self.centres}
        self.steps = 0

    def loss(self, prediction: torch.Tensor, source: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Return the loss of a micro batch, of logits (B, M + 1 + L, outputs) and of the teacher's (B, N + 1, outputs)."""
        logs = [(row.double() / self.settings.student_temperature).log_softmax(-1) for row in prediction]
        count, patches, pairs = masked.shape[1], [], []
        for clip, places in enumerate(masked):
            assigned = [self._assigned("patch", source[clip, place]) for place in places]
            patches += [-(one * log).sum() for one, log in zip(assigned, logs[clip], strict=False)]
        classes = [self._assigned("class", row[-1]) for row in source]
        for mine, theirs in np.ndindex(len(logs), len(logs)):
            if mine // self.clips == theirs // self.clips:
                own = [] if mine == theirs and self.clips > 1 else [logs[mine][count]]
                pairs += [-(classes[theirs] * log).sum() for log in [*own, *logs[mine][count + 1 :]]]
        patch, whole = torch.stack(patches).mean(), torch.stack(pairs).mean()
        return (self.settings.patch_weight * patch + self.settings.class_weight * whole).float()

    def end_step(self) -> None:
        """Move the centres by all logits of the step."""
        for part, rows in self.seen.items():
            mean, kept = np.mean(rows, axis=0), self.settings.centre_momentum
            self.centres[part] = kept * self.centres[part] + (1 - kept) * mean
            rows.clear()
        self.steps += 1

    def _assigned(self, part: str, logits: torch.Tensor) -> torch.Tensor:
        first, last = self.settings.teacher_temperature
        temperature = first + (last - first) * min(self.steps / self.settings.warmup_steps, 1)
        self.seen[part].append(logits.double().numpy())
        return ((logits.double() - torch.from_numpy(self.centres[part])) / temperature).softmax(-1)


def plain_rows(recipe: TrainingRecipe, name: str, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the loss (B,) of every sample of (B, M, D): smooth L1, or a mixture."""
    loss = recipe.teachers[name].loss
    parts = {loss: 1.0} if isinstance(loss, str) else loss
    total = torch.zeros(len(prediction))
    for kind, weight in parts.items():
        if kind == "cosine":
            each = 1 - (prediction * target).sum(-1) / (prediction.norm(dim=-1) * target.norm(dim=-1)).clamp_min(1e-8)
        else:
            each = F.smooth_l1_loss(prediction, target, reduction="none").mean(-1)
        total = total + weight * each.mean(dim=1)
    return total


def _masked(source: torch.Tensor, batch: ClipBatch) -> torch.Tensor:
    """Return the features of masked tokens (B, M, D), clip by clip."""
    return torch.stack([source[clip, tokens] for clip, tokens in enumerate(batch.masked[:, 0])])


def _mean(tokens: np.ndarray) -> np.ndarray:
    """Return the mean of tokens, 0 where it is rounding noise beside their length."""
    mean = tokens.mean(axis=0)
    return mean * (np.linalg.norm(mean) >= 1e-4 * math.sqrt((tokens**2).sum(axis=1).mean()))


def _tokens(parts: list[torch.Tensor]) -> np.ndarray:
    """Return the tokens of all parts in one row each, fp64."""
    return torch.cat([part.flatten(0, -2) for part in parts]).double().numpy()
