"""The product's training step in ``bench step``: its student, teachers, targets, losses and AdamW.

``ProductStep`` leaves DeepSpeed's engine out, so that one process can hold all variants: with one device the engine adds nothing
to the arithmetic, and fp32 masters of bf16 weights are kept as it keeps them. ``EngineStep`` runs under the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.config import ClipView, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.masking_batch import device_masks
from mvd_ds.models.acceleration.compiled import compile_blocks, wants_compiling
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.teachers import Given, Teacher, plan_teacher
from mvd_ds.runs.placing import accelerate, place_teachers, round_to_fp8
from mvd_ds.runs.student import plan_predictor
from mvd_ds.tools.bench.clock import Clock, held_by, tensor_bytes
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.device_batch import to_device
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import DTYPES
from mvd_ds.training.engine.deepspeed_start import start_student
from mvd_ds.training.engine.update_gate import UpdateGate
from mvd_ds.training.language import CaptionLoss
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.optim import build_optimizer, parameter_groups
from mvd_ds.training.reporting.memory import state_bytes
from mvd_ds.training.step import PixelTargets, TargetSource, TeacherTargets, normalise, to_unit


class DistillStep:
    """The forward pass of ``distill``, timed by part, which ``ProductStep`` and ``EngineStep`` share.

    Attributes:
        stacks: compiled stacks of blocks; empty if nothing is compiled.
        similarities: similarity of features in FP8 and in bf16, by teacher.
    """

    def __init__(self) -> None:
        self.stacks: list[Any] = []
        self.similarities: dict[str, float] = {}

    def compile(self, student: nn.Module, recipe: TrainingRecipe, device: torch.device) -> None:
        """Compile the student's blocks if the recipe wants it, for two shapes: batches of one mask, and of all."""
        if wants_compiling(recipe.engine.compile, device):
            self.stacks = compile_blocks(student, "student", limit=2)

    def set_teachers(
        self, recipe: TrainingRecipe, student: Any, teachers: Mapping[str, Callable[..., Given]], cluster: Cluster
    ) -> None:
        """Have ``student``, a network or the engine around it, learn from ``teachers``, and from captions where it does."""
        device = cluster.device
        self.clock = Clock(device)
        marked = {name: self._marked(name, teacher) for name, teacher in teachers.items()}
        masks, language = device_masks(recipe), recipe.language
        targets: TargetSource = PixelTargets(recipe, masks)
        if recipe.teachers:
            targets = TeacherTargets(recipe, marked, DTYPES[recipe.engine.precision], masks)
        captions = None if language is None else CaptionLoss(language, cluster.gather_tensor, cluster.rank)
        self.objective = MaskedPrediction(recipe, student, targets, device, captions)

    def drawn(self, batch: ClipBatch) -> ClipBatch:
        """Return the batch on the host with its masks, which a step draws where it comes without."""
        if batch.masked.shape[-1]:
            return batch
        masked, _ = self.objective.targets.draw(to_device(batch, self.objective.device))
        return batch._replace(visible=masked.visible.cpu(), masked=masked.masked.cpu())

    def loss(self, batch: ClipBatch, clock: Clock) -> Tensor:
        """Return the weighted loss of a batch."""
        self.clock = clock
        loss = self.objective(batch, measure=False).total
        clock.mark("student")
        return loss

    def _marked(self, name: str, teacher: Callable[..., Given]) -> Callable[..., Given]:
        def features(*inputs: Tensor) -> Given:
            self.clock.mark("inputs")
            found = teacher(*inputs)
            self.clock.mark(f"teacher {name}")
            return found

        return features


class ProductStep(DistillStep):
    """The step of ``distill`` in plain torch, for any number of masks of a batch.

    Args:
        recipe: recipe of the step.
        student: fp32 network, which the step takes over and casts to the recipe's precision.
        teachers: fp32 networks by name, likewise.
        fp8_clips: uint8 (B, C, T, H, W) by side in px, to let the teachers compute in FP8 and to judge that by; None: no FP8.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        student: MaskedPredictor,
        teachers: dict[str, Teacher],
        device: torch.device,
        fp8_clips: dict[ClipView, Tensor] | None = None,
    ) -> None:
        super().__init__()
        dtype = DTYPES[recipe.engine.precision]
        groups = parameter_groups(student, recipe.optimizer)
        order = {id(parameter): index for index, parameter in enumerate(student.parameters())}
        places = [[order[id(parameter)] for parameter in group["params"]] for group in groups]
        self.is_mixed = dtype != torch.float32
        # Copied before the weights are rounded.
        self.masters = [parameter.detach().to(device) for parameter in student.parameters()] if self.is_mixed else []
        self.student = student.to(device, dtype)
        self.teachers = {name: teacher.to(device, dtype) for name, teacher in teachers.items()}
        self.weights: list[Tensor] = list(self.student.parameters())
        trained = self.masters if self.is_mixed else self.weights
        self.average = Average(recipe, self.student, trained, self.teachers)
        of_group = [{**group, "params": [trained[i] for i in own]} for group, own in zip(groups, places, strict=True)]
        # Learning rate 0: the arithmetic is the same, and every step starts from equal weights.
        self.optimizer = build_optimizer(of_group, recipe.optimizer)
        self.compile(self.student, recipe, device)
        # In the order of `distill`: rounding, compilation, graph.
        for name, teacher in self.teachers.items() if fp8_clips else ():
            assert fp8_clips is not None
            clips = fp8_clips[recipe.view_of(recipe.teachers[name])]
            self.similarities[name] = round_to_fp8(teacher, normalise(to_unit(clips.to(device)), dtype))
        fast = {
            name: accelerate(teacher, name, recipe.teachers[name], recipe.engine, device)
            for name, teacher in self.teachers.items()
        }
        self.set_teachers(recipe, self.student, fast, Cluster(0, 1, device))

    def backward(self, loss: Tensor) -> None:
        """Compute gradients in the precision of the weights."""
        loss.backward()

    def first_update(self) -> float:
        """Run ``update``, and return the L2 norm of all gradients before it."""
        norm = float(nn.utils.get_total_norm([p.grad.float() for p in self.weights if p.grad is not None]))
        self.update()
        return norm

    def update(self) -> None:
        """Run the optimizer's step on fp32 weights and drop the gradients."""
        if self.is_mixed:
            for master, weight in zip(self.masters, self.weights, strict=True):
                master.grad = None if weight.grad is None else weight.grad.float()
        self.optimizer.step()
        self.average.update()
        if self.is_mixed:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.masters)
        for tensor in (*self.masters, *self.weights):
            tensor.grad = None

    def held_bytes(self) -> int:
        """Return the bytes that are held before a step: weights, optimizer states and teachers."""
        return held_by(self.student, self.optimizer, self.teachers) + tensor_bytes([*self.masters, *self.average.values])


class Average:
    """The moving average of a plain student, which its teachers of weights ``ema`` get after every step.

    Args:
        recipe: recipe of the step; without ``optimizer.ema_decay`` there is no average.
        student: gives the names of its parameters.
        trained: what the optimizer moves, in the order of the student's parameters.
        teachers: networks by name.
    """

    def __init__(
        self, recipe: TrainingRecipe, student: nn.Module, trained: list[Tensor], teachers: Mapping[str, nn.Module]
    ) -> None:
        decay = recipe.optimizer.ema_decay
        self.decay, self.trained = decay or 0.0, trained if decay is not None else []
        self.values = [value.detach().clone() for value in self.trained]
        places = {name: place for place, (name, _) in enumerate(student.named_parameters())}
        followers = [teacher for name, teacher in teachers.items() if recipe.teachers[name].is_ema]
        found = [(parameter, places[name]) for teacher in followers for name, parameter in teacher.named_parameters()]
        self.followers = [(parameter, self.values[place]) for parameter, place in found]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average, and hand it on."""
        if self.trained:
            torch._foreach_lerp_(self.values, [value.detach() for value in self.trained], 1 - self.decay)
        if self.followers:
            parameters, values = zip(*self.followers, strict=True)
            torch._foreach_copy_(list(parameters), list(values))


class EngineStep(DistillStep):
    """The step of ``distill`` under DeepSpeed's engine, each process with its own clips; built and used collectively.

    Args:
        recipe: recipe of the step, with its engine config and the placements of its teachers.
        cluster: the group of processes.
    """

    def __init__(self, recipe: TrainingRecipe, cluster: Cluster) -> None:
        super().__init__()
        plan = plan_predictor(recipe)
        # Learning rate 0, which the optimizer starts with: every step starts from equal weights.
        self.engine = start_student(plan, parameter_groups(plan.structure, recipe.optimizer), recipe, cluster)
        self.compile(self.engine.module, recipe, cluster.device)
        self.gate = UpdateGate(self.engine)
        plans = {name: plan_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
        self.teachers = place_teachers(recipe, plans, cluster, dict)
        self.average = Ema(self.engine, recipe.optimizer.ema_decay, recipe.optimizer.ema_decay_end)
        for name in [name for name, settings in recipe.teachers.items() if settings.is_ema]:
            self.average.follow(self.teachers[name], name)
        self.set_teachers(recipe, self.engine, self.teachers, cluster)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, and reduce them over the processes if the engine does so now."""
        self.engine.backward(loss)

    def update(self) -> None:
        """Run the optimizer's step and drop the gradients."""
        self.engine.step()
        self.average.update(self.gate.shut)

    def first_update(self) -> float:
        """Run ``update``, and return the L2 norm of all gradients before it."""
        self.engine.step()
        return float(torch.as_tensor(self.engine.get_global_grad_norm()))

    def held_bytes(self) -> int:
        """Return the bytes of this process's state between steps."""
        return sum(state_bytes(self.engine, self.teachers).values()) + tensor_bytes(self.average.averages)
