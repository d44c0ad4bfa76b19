"""Run as a process of a group by test_plan_states.py: bytes that DeepSpeed's engines hold after a few steps, measured.

Prints one line of JSON on rank 0: a case a row, with what the plan predicts for it.
"""

from __future__ import annotations

import gc
import json
from typing import Any

import torch

from mvd_ds.config import TrainingRecipe
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.plan.memory import student_states
from mvd_ds.tools.plan.sizes import recipe_sizes
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.engine.deepspeed_start import start_student, zero_faults
from mvd_ds.training.engine.engine_config import Place, student_config
from mvd_ds.training.optim import parameter_groups
from shrinking import shipped

NETWORK = ["size=null", "embed_dim=96", "depth=3", "num_heads=2", "patch_px=8"]
SMALL = [
    "data.clip.frames=8",
    "data.clip.stride_frames=1",
    "data.clip.size_px=32",
    *(f"{where}.{item}" for where in ("model", "teachers.image", "teachers.video") for item in NETWORK),
    *("decoder.embed_dim=48", "decoder.depth=2", "decoder.num_heads=2"),
    "batch.micro=2",
]
#: Engine config, precision, accumulation.
CASES = [
    ("zero1.json", "bf16", 1),
    ("zero2.json", "bf16", 2),
    ("zero3.json", "fp32", 1),
    ("zero3_lowmem.json", "bf16", 2),
]


def tensor_bytes() -> dict[int, int]:
    """Bytes of every storage that a tensor of this process holds, by its address."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    found += [tensor.grad for tensor in found if tensor.is_leaf and tensor.grad is not None]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}


def measure(recipe: TrainingRecipe, cluster: Cluster) -> dict[str, Any]:
    """Bytes of the states of ``recipe``'s student after two steps, and what was planned."""
    before = tensor_bytes()
    student = build_predictor(recipe)
    engine = start_student(student, parameter_groups(student, recipe.optimizer), recipe, cluster)
    del student
    slots, rows, columns = recipe.grid
    dtype = next(engine.module.parameters()).dtype
    for _ in range(2 * recipe.batch.accumulation_steps(cluster.world)):
        clip = torch.randn(recipe.batch.micro, 3, recipe.data.clip.frames, 32, 32).to(dtype)
        order = torch.rand(recipe.batch.micro, 1, slots * rows * columns).argsort(dim=-1)
        predictions = engine(clip, order[..., : -recipe.masked_tokens], order[..., -recipe.masked_tokens :])
        engine.backward(sum(prediction.float().square().mean() for prediction in predictions.values()))
        engine.step()
    del clip, order, predictions
    held = {address: size for address, size in tensor_bytes().items() if address not in before}
    tables = sum(buffer.untyped_storage().nbytes() for buffer in engine.module.buffers())
    sizes = recipe_sizes(recipe).student
    config = student_config(recipe, Place(cluster.world), sizes.thresholds, zero_faults)
    planned = student_states(sizes, config, cluster.world, recipe.engine.precision == "bf16")
    engine.destroy()
    return {"measured": sum(held.values()) - tables, "planned": planned.total, "parameters": sizes.parameters}


def main() -> None:
    found = []
    with joined_cluster(5, "cpu") as cluster:
        for config, precision, accumulation in CASES:
            batch = f"batch.global={2 * accumulation * cluster.world}"
            recipe = shipped([*SMALL, batch, f"engine.config={config}", f"engine.precision={precision}"])
            found.append({"case": [config, precision, accumulation], **measure(recipe, cluster)})
        if cluster.is_main:
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
