"""Exponential moving average of the student's weights: fp32, on the shards of the optimizer, in every ZeRO stage.

Teachers whose weights are ``ema`` follow it: they get it after every step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mvd_ds.objectives.moving_statistics import cosine_fall
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.engine_shards import masters, spread_masters
from mvd_ds.training.engine.living_teacher import LivingTeacher
from mvd_ds.training.engine.protocol import Engine, WholeWeights


class Ema:
    """The moving average ``average = decay * average + (1 - decay) * weights`` over applied steps; none without a decay.

    Costs 4 bytes per parameter over all ranks and one pass over them per step. Source: as timm's ``ModelEmaV3``, no warm-up.

    Attributes:
        averages: one flat fp32 tensor for each of this rank's masters; empty without a decay.
        teachers: the teachers that follow it.
    """

    def __init__(self, engine: Engine, decay: float | None, end: float | None = None) -> None:
        """Start at the weights that ``engine`` has now.

        Args:
            engine: of ``start_student``.
            decay: in (0, 1], ``optimizer.ema_decay``; None: there is no average.
            end: the decay at the end of the run, ``optimizer.ema_decay_end``; None: it is constant.
        """
        self.engine, self.decay, self.end = engine, decay, end
        self.averages: list[Tensor] = []
        self.teachers: list[LivingTeacher] = []
        self.restart()

    @property
    def active(self) -> bool:
        return self.decay is not None

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again at the weights of now."""
        self.averages = [master.detach().clone() for master in masters(self.engine)] if self.active else []

    def follow(self, teacher: Any, name: str) -> None:
        """Have a placed teacher be the average from now on. Collective.

        Args:
            teacher: of ``start_teacher``, with names and shapes of the student's parameters.
            name: its name, for messages.

        Raises:
            ConfigError: if a parameter of the teacher is not the student's.
        """
        self.teachers.append(LivingTeacher(self.engine, teacher, name))
        self.teachers[-1].take(self.averages)

    @torch.no_grad()
    def update(self, shut: Tensor, progress: float = 0.0) -> None:
        """Take in the weights of now, and hand the average on to its teachers; called after every optimizer step. Collective.

        Args:
            shut: of ``UpdateGate``, an fp32 scalar: at 1 the step changed nothing, and neither does this.
            progress: share of the run that was done before this step.
        """
        if self.decay is None:
            return
        decay = self.decay if self.end is None else cosine_fall(progress, self.decay, self.end)
        weight = (1 - decay) * (1 - shut)
        for average, master in zip(self.averages, masters(self.engine), strict=True):
            average.lerp_(master, weight.to(average.device))
        for teacher in self.teachers:
            teacher.take(self.averages)

    def full_weights(self, cluster: Cluster, whole_weights: WholeWeights) -> dict[str, Tensor]:
        """Return the average by parameter name, fp32, whole, on the CPU of rank 0 (empty elsewhere). Collective.

        Args:
            cluster: the processes of the run.
            whole_weights: gathers the engine's weights.
        """
        self._exchange()
        try:
            return whole_weights(self.engine, cluster)
        finally:
            self._exchange()

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Let the network compute with the average; afterwards weights are what they were, to the bit. Collective.

        For validation: neither step nor save inside. Without a decay it changes nothing. A fault inside ends the run: the
        masters are put back, the network's weights not, since a rank that fails alone would wait for the others there.
        """
        if not self.active:
            yield
            return
        self._exchange()
        try:
            spread_masters(self.engine)
            yield
        finally:
            self._exchange()
        spread_masters(self.engine)

    @torch.no_grad()
    def _exchange(self) -> None:
        """Swap values, not tensors: DeepSpeed holds views into the masters."""
        for average, master in zip(self.averages, masters(self.engine), strict=True):
            aside = master.detach().clone()
            master.copy_(average)
            average.copy_(aside)
