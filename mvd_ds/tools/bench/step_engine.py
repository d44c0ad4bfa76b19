"""The product's step in ``bench step`` with several processes, and in ``bench growth``: under DeepSpeed's engine, as trained."""

from __future__ import annotations

import torch
from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.models.masked import plan_predictor
from mvd_ds.models.teachers import plan_teacher
from mvd_ds.runs.placing import place_teachers
from mvd_ds.tools.bench.product_step import DistillStep
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_start import start_student
from mvd_ds.training.engine.update_gate import UpdateGate
from mvd_ds.training.optim import parameter_groups
from mvd_ds.training.reporting.memory import state_bytes


class EngineStep(DistillStep):
    """The step of ``distill``, each process with clips of its own. Built and used collectively."""

    def __init__(self, recipe: TrainingRecipe, cluster: Cluster) -> None:
        """Args:
        recipe: of the step; its engine config and its teachers' placements count.
        """
        super().__init__()
        plan = plan_predictor(recipe)
        # Learning rate 0, which the optimizer starts with: every step starts from equal weights.
        self.engine = start_student(plan, parameter_groups(plan.structure, recipe.optimizer), recipe, cluster)
        self.compile(self.engine.module, recipe, cluster.device)
        UpdateGate(self.engine)
        plans = {name: plan_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
        self.teachers = place_teachers(recipe, plans, cluster, dict)
        self.set_teachers(recipe, self.engine, self.teachers, cluster.device)

    def backward(self, loss: Tensor) -> None:
        """Gradients, summed up over the processes where the engine does that now."""
        self.engine.backward(loss)

    def update(self) -> None:
        """The optimizer's step; gradients are gone then."""
        self.engine.step()

    def first_update(self) -> float:
        """``update``, and the L2 norm of all gradients before it."""
        self.engine.step()
        return float(torch.as_tensor(self.engine.get_global_grad_norm()))

    def held_bytes(self) -> int:
        """State of this process between steps."""
        return sum(state_bytes(self.engine, self.teachers).values())
