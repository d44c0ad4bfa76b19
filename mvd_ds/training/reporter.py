"""What a training run says while it runs: to metrics.jsonl, TensorBoard and the person who watches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.objectives.diagnostics import effective_rank, feature_variance, mean_target_loss
from mvd_ds.objectives.terms import LossTerms, Term
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import StepProgress
from mvd_ds.training.metrics import Meter, MetricsWriter, Stopwatch, peak_flops, peak_memory_gib

#: Tokens whose singular values give the effective rank.
RANK_TOKENS = 1024


class Reporter:
    """Collects on the device, tells at log steps.

    Args:
        terms: the losses by target name.
        flops_per_clip: model FLOPs of a training step per clip, trained parts three times, teachers once.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        cluster: Cluster,
        terms: dict[str, Term],
        writer: MetricsWriter,
        progress: StepProgress,
        flops_per_clip: float,
        first_step: int,
    ) -> None:
        self.recipe, self.cluster, self.terms = recipe, cluster, terms
        self.writer, self.progress, self.flops_per_clip = writer, progress, flops_per_clip
        self.meter, self.watch, self.told = Meter(cluster), Stopwatch(), first_step

    def add_losses(self, loss: LossTerms) -> None:
        self.meter.add("loss/total", loss.total)
        for name, term in loss.terms.items():
            self.meter.add(f"loss/{name}", term)

    def add_features(self, predictions: dict[str, Tensor], targets: dict[str, Tensor], loss: LossTerms, tokens: Tensor) -> None:
        """How far from trivial the student is: loss over that of predicting the mean target, variances, rank.

        Args:
            predictions, targets: (B*K, M, D) by name.
            tokens: (B*K, V, D) encoder output.
        """
        for name, target in targets.items():
            trivial = mean_target_loss(target, self.terms[name].loss)
            self.meter.add(f"loss_relative/{name}", loss.terms[name] / trivial.clamp_min(1e-12))
            self.meter.add(f"target/variance_{name}", feature_variance(target))
            self.meter.add(f"prediction/variance_{name}", feature_variance(predictions[name].detach()))
        samples = tokens.flatten(0, 1)
        self.meter.add("student/effective_rank", effective_rank(samples[:: max(len(samples) // RANK_TOKENS, 1)][:RANK_TOKENS]))

    def tell(self, done: int, learning_rate: float, engine: Any) -> None:
        """Write the means since the last call under step ``done``. Collective.

        Raises:
            ConfigError: on every rank, if the loss is not finite.
        """
        values = self.meter.means()
        _require_finite(done, values["loss/total"])
        values |= self._optimizer(learning_rate, engine) | self._speed(done)
        self.writer.write(done, values)
        parts = " ".join(f"{name} {values[f'loss/{name}']:.3f}" for name in self.terms)
        speed = f"{values['perf/clips_per_second']:.0f} clips/s"
        self.progress.update(done, f"loss {values['loss/total']:.4f} ({parts})  {speed}")

    def close(self) -> None:
        self.progress.close()
        self.writer.close()

    def _optimizer(self, learning_rate: float, engine: Any) -> dict[str, float]:
        return {
            "optim/lr": learning_rate,
            "optim/weight_decay": self.recipe.optimizer.weight_decay,
            "optim/gradient_norm": float(engine.get_global_grad_norm() or 0.0),
            # DeepSpeed skips a step with a non-finite gradient without a word at this log level.
            "optim/skipped_steps": float(engine.skipped_steps),
        }

    def _speed(self, done: int) -> dict[str, float]:
        seconds, waited = self.watch.read()
        steps, self.told = done - self.told, done
        clips_per_second = steps * self.recipe.batch.global_ / seconds
        flops_per_second = clips_per_second * self.flops_per_clip / self.cluster.world
        values = {
            "perf/clips_per_second": clips_per_second,
            "perf/student_samples_per_second": clips_per_second * self.recipe.masking.masks_per_clip,
            "perf/step_seconds": seconds / steps,
            "perf/data_wait_share": waited,
            "perf/model_tflops_per_second_per_device": flops_per_second / 1e12,
            "memory/peak_gib": peak_memory_gib(self.cluster.device),
        }
        peak = peak_flops(self.cluster.device)
        return values | ({"perf/mfu": flops_per_second / peak} if peak else {})


class EncoderTokens:
    """Context that keeps the student's encoder output (B*K, V, D) of the forward pass inside, when ``wanted``."""

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


def _require_finite(step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise ConfigError(
            f"step {step}: the loss is {loss}; nothing was saved since the last checkpoint. Lower optimizer.base_lr or set "
            "optimizer.gradient_clipping, and start again: the run goes on from there"
        )
