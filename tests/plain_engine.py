"""What checkpoints use of DeepSpeed's engine, at stage 0 in one process: torch's optimizer over the parameters themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mvd_ds.config import TrainingRecipe, load_recipe
from mvd_ds.training.checkpoint.checkpoint import Checkpoints
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import save_shards
from mvd_ds.training.run_folder import RunFolder


class StageZero:
    """DeepSpeed's engine at stage 0, as far as its state and its ``UpdateGate`` know it."""

    def __init__(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, clipping: float = 0.0) -> None:
        self.module, self.optimizer, self.clipping = module, optimizer, clipping

    def zero_optimization_stage(self) -> int:
        return 0

    def gradient_clipping(self) -> float:
        return self.clipping


class PlainEngine(StageZero):
    """Two linear layers in two parameter groups."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
        weights = [p for p in module.parameters() if p.ndim > 1]
        biases = [p for p in module.parameters() if p.ndim == 1]
        groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
        super().__init__(module, torch.optim.AdamW(groups, lr=0.1, fused=True))
        self.checkpoint_engine: Any = None
        self.global_steps = self.skipped_steps = self.global_samples = 0

    def train(self) -> float:
        """One step on numbers that depend on the step alone; the loss before it."""
        inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(self.global_steps))
        loss = self.module(inputs).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.global_steps += 1
        return loss.item()

    def save_checkpoint(self, folder: str, tag: str, client_state: dict[str, Any], save_latest: bool) -> None:
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), **client_state}
        self.checkpoint_engine.save(state, str(Path(folder) / tag / "mp_rank_00_model_states.pt"))


def plain_checkpoints(folder: Path, *overrides: str, seed: int = 0, ema_decay: float | None = 0.9) -> Checkpoints:
    """Checkpoints of a new engine over ``folder``, as one process; its engine and average are its attributes."""
    recipe = load_recipe("quickstart_distill", ["run.keep_every_steps=20", *overrides])
    assert isinstance(recipe, TrainingRecipe)
    engine = PlainEngine(seed)
    return Checkpoints(RunFolder(folder), recipe, Cluster(0, 1, torch.device("cpu")), engine, Ema(engine, ema_decay), save_shards)
