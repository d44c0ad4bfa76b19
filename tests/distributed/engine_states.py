"""Run by test_engine_states.py: the state of engines of every ZeRO stage and precision, written by one, taken over by all.

``write FOLDER OVERRIDES``: trains each for two steps, with one between that is not finite and one queued behind that, looks
at its moving average, saves a checkpoint and what is in it.
``read FOLDER OVERRIDES``: loads each checkpoint into engines of three other layouts, and compares to the bit.
``read_all FOLDER OVERRIDES``: of all.
Prints ``compared N`` on rank 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.checkpoint.checkpoint import Checkpoints
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import DTYPES, full_weights, joined_cluster, save_shards
from mvd_ds.training.engine.deepspeed_start import start_student
from mvd_ds.training.engine.engine_shards import Held, adam, held, masters
from mvd_ds.training.engine.update_gate import UpdateGate
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import normalise, to_unit
from shrinking import shipped
from waits import Questions

ZERO = {"reduce_bucket_size": 1000000, "memory_efficient_linear": False}
#: JSONs beside those of ds_configs/: no ZeRO, ZeRO-1 in bf16 by DeepSpeed's other optimizer, ZeRO-3 in many flat tensors.
OWN_JSONS: dict[str, dict[str, Any]] = {
    "zero0": {"zero_optimization": {"stage": 0, **ZERO}},
    "zero1_fp32_sums": {"zero_optimization": {"stage": 1, **ZERO}, "data_types": {"grad_accum_dtype": "fp32"}},
    "zero3_cut": {"zero_optimization": {"stage": 3, "sub_group_size": 20000, "stage3_param_persistence_threshold": 100, **ZERO}},
}
#: DeepSpeed JSON and precision.
LAYOUTS = [
    ("zero0", "fp32"),
    ("zero1.json", "fp32"),
    ("zero2.json", "bf16"),
    ("zero3.json", "fp32"),
    ("zero3.json", "bf16"),
    ("zero1_fp32_sums", "bf16"),
    ("zero3_cut", "bf16"),
]
DECAYS = (0.0, 0.05, 0.1, 0.3, 0.7)


class Run:
    """One engine, its average and its checkpoints."""

    def __init__(self, layout: tuple[str, str], folder: Path, overrides: list[str], cluster: Cluster, seed: int) -> None:
        json_path, precision = layout
        own = folder.parent / f"{json_path}.json"
        settings = [f"engine.config={own if own.exists() else json_path}", f"engine.precision={precision}", f"run.seed={seed}"]
        settings.append("optimizer.gradient_clipping=0.5")
        self.recipe: TrainingRecipe = shipped([*overrides, *settings, "optimizer.ema_decay=0.5"])
        self.cluster = cluster
        model = build_predictor(self.recipe)
        parameters = list(model.parameters())
        groups = [
            {"name": f"group {i}", "weight_decay": decay, "lr": 0.01, "params": parameters[i :: len(DECAYS)]}
            for i, decay in enumerate(DECAYS)
        ]
        self.engine = start_student(model, groups, self.recipe, cluster)
        self.gate = UpdateGate(self.engine)
        self.ema = Ema(self.engine, self.recipe.optimizer.ema_decay)
        # Resumed by another seed: what is not taken over is seen.
        saved_by = shipped([*overrides, *settings, "run.seed=0", "optimizer.ema_decay=0.5"])
        self.checkpoints = Checkpoints(RunFolder(folder), saved_by, cluster, self.engine, self.ema, save_shards)

    def predict(self, batch: Any, model: Any = None) -> dict[str, Tensor]:
        clip = normalise(to_unit(batch.views[self.recipe.data.clip.size_px]), DTYPES[self.recipe.engine.precision])
        return (model or self.engine)(clip, batch.visible, batch.masked, batch.drop_path)

    def train(self, batches: list[Any], factor: float = 1.0) -> list[str]:
        """One step; what it asked of the device."""
        questions = Questions()
        questions.watch(deepspeed.accelerator.get_accelerator())
        for group, rate in zip(self.engine.optimizer.param_groups, (0.01, 0.02, 0.03, 0.04, 0.05), strict=True):
            group["lr"] = rate
        for batch in batches:
            with questions:
                loss = factor * sum(value.float().square().mean() for value in self.predict(batch).values())
                self.engine.backward(loss)
                self.engine.step()
        with questions:
            self.ema.update(self.gate.shut)
        return questions.asked

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Masters, moments and average by kind and name, on rank 0."""
        found = {"master": full_weights(self.engine, self.cluster), "ema": self.ema.full_weights(self.cluster, full_weights)}
        own = [(run.name, run.first, self._moments(run)) for run in held(self.engine)]
        shapes = {name: getattr(p, "ds_shape", p.shape) for name, p in self.engine.module.named_parameters()}
        for index, kind in enumerate(("exp_avg", "exp_avg_sq")):
            found[kind] = {name: torch.full(shape, torch.nan) for name, shape in shapes.items()}
            for name, first, parts in (part for rank in self.cluster.gather(own) for part in rank):
                found[kind][name].view(-1)[first : first + len(parts[index])] = parts[index]
        return found if self.cluster.is_main else {}

    def _moments(self, run: Held) -> list[Tensor]:
        """DeepSpeed's own getters know them only after a step."""
        state = adam(self.engine).state[masters(self.engine)[run.flat]]
        return [state[kind].flatten()[run.offset : run.offset + run.size].clone() for kind in ("exp_avg", "exp_avg_sq")]


def start_odd_sizes(overrides: list[str], cluster: Cluster) -> None:
    """Masters are exact where the processes do not divide a parameter, or one has none of it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 1))
    kept = {name: value.detach().clone() for name, value in model.named_parameters()}
    groups = [{"name": "all", "weight_decay": 0.0, "lr": 0.01, "params": list(model.parameters())}]
    engine = start_student(model, groups, shipped([*overrides, "engine.config=zero3.json", "engine.precision=bf16"]), cluster)
    weights = full_weights(engine, cluster)
    assert not cluster.is_main or all(weights[name].equal(value) for name, value in kept.items())


def write(folder: Path, overrides: list[str], cluster: Cluster) -> int:
    start_odd_sizes(overrides, cluster)
    recipe = shipped(overrides)
    loader = ClipLoader(recipe, recipe.drop_path_blocks, cluster.rank, cluster.world)
    batches = list(loader.batches(0, 2))
    loader.close()
    half = len(batches) // 2
    for layout in LAYOUTS:
        home = folder / "-".join(layout)
        if cluster.is_main:
            home.mkdir()
        cluster.barrier()
        run = Run(layout, home, overrides, cluster, seed=0)
        start = full_weights(run.engine, cluster)
        run.train(batches[:half])
        middle = full_weights(run.engine, cluster)
        spoil(run, batches[:half])
        asked = run.train(batches[half:])
        # DeepSpeed's bf16 optimizer, which no JSON of ds_configs/ takes, computes its norm by itself.
        assert not asked or layout[0] == "zero1_fp32_sums", (layout, asked)
        look_at_average(run, batches[0], start, middle)
        state = run.state()
        run.checkpoints.save(2)
        if cluster.is_main:
            torch.save(state, home / "expected.pt")
    return len(LAYOUTS)


def spoil(run: Run, batches: list[Any]) -> None:
    """One rank's loss is not finite: that step, and the sound one queued behind it, leave no trace on any rank."""
    before = run.state()
    run.train(batches, torch.nan if run.cluster.rank == run.cluster.world - 1 else 1.0)
    assert not torch.isfinite(torch.as_tensor(run.engine.get_global_grad_norm()))
    run.train(batches)
    assert run.cluster.gather(run.gate.verdict().passed()) == [False] * run.cluster.world
    for kind, values in run.state().items():
        assert all(value.equal(before[kind][name]) for name, value in values.items()), kind
    run.gate.open()
    assert run.gate.verdict().passed()


def look_at_average(run: Run, batch: Any, start: dict[str, Tensor], middle: dict[str, Tensor]) -> None:
    """It is what the formula says, in place of the weights it computes what a plain model does, and leaves no trace."""
    weights, average = full_weights(run.engine, run.cluster), run.ema.full_weights(run.cluster, full_weights)
    for name, value in average.items():
        torch.testing.assert_close(value, start[name] / 4 + middle[name] / 4 + weights[name] / 2)
    run.engine.eval()
    before = run.predict(batch)
    with run.ema.in_place_of_weights():
        inside = run.predict(batch)
    after = run.predict(batch)
    run.engine.train()
    assert all(before[name].equal(after[name]) and not before[name].equal(inside[name]) for name in before)
    now = full_weights(run.engine, run.cluster)
    assert all(now[name].equal(value) for name, value in weights.items())
    if run.cluster.is_main:
        plain = build_predictor(run.recipe)
        plain.load_state_dict(average)
        plain = plain.to(DTYPES[run.recipe.engine.precision]).eval()
        expected = run.predict(batch, plain)
        for name, value in expected.items():
            torch.testing.assert_close(inside[name], value, rtol=1e-4 if value.dtype == torch.float32 else 3e-2, atol=1e-3)


def read_all(folder: Path, overrides: list[str], cluster: Cluster) -> int:
    return read(folder, overrides, cluster, distances=range(len(LAYOUTS)))


def read(folder: Path, overrides: list[str], cluster: Cluster, distances: Iterable[int] = (1, 3, 4)) -> int:
    compared = 0
    for index, source in enumerate(LAYOUTS):
        for target in (LAYOUTS[(index + distance) % len(LAYOUTS)] for distance in distances):
            home = folder / "-".join(source)
            run = Run(target, home, overrides, cluster, seed=1)
            assert run.checkpoints.load().step == 2
            state = run.state()
            if cluster.is_main:
                expected = torch.load(home / "expected.pt", weights_only=True)
                assert state.keys() == expected.keys() == {"master", "ema", "exp_avg", "exp_avg_sq"}
                for kind, values in expected.items():
                    wrong = [name for name, value in values.items() if not state[kind][name].equal(value)]
                    assert not wrong, (source, target, kind, wrong)
            require_settings(run)
            compared += 1
    return compared


def require_settings(run: Run) -> None:
    """Every group has its own settings, every flat tensor its own step count; weights follow the masters."""
    assert [group["weight_decay"] for group in run.engine.optimizer.param_groups] == list(DECAYS)
    steps = [state["step"] for state in adam(run.engine).state.values()]
    assert [float(step) for step in steps] == [2.0] * len(steps) and len({step.data_ptr() for step in steps}) == len(steps)
    weights = full_weights(run.engine, run.cluster)
    for name, parameter in run.engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if run.cluster.is_main:
                assert parameter.detach().equal(weights[name].to(parameter.dtype)), name


def main(mode: str, folder: Path, overrides: list[str]) -> None:
    with joined_cluster(10, "cpu") as cluster:
        if cluster.is_main:
            for name, values in OWN_JSONS.items():
                (folder / f"{name}.json").write_text(json.dumps(values))
        cluster.barrier()
        done = {"write": write, "read": read, "read_all": read_all}[mode](folder, overrides, cluster)
        if cluster.is_main:
            print(f"compared {done}", flush=True)


if __name__ == "__main__":
    chosen = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    main(chosen[0], Path(chosen[1]), chosen[2:])
