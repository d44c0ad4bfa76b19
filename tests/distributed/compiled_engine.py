"""Run as a process of a group by test_compiled.py: losses of engines with eager blocks and with compiled ones, of students
that are trained whole and of such with frozen parts.

Prints one line of JSON on rank 0: a case a row.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import torch

from mvd_ds.config import TrainingRecipe
from mvd_ds.models.acceleration.compiled import compile_blocks
from mvd_ds.models.layers import Block
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.engine.deepspeed_start import start_student
from mvd_ds.training.optim import parameter_groups
from shrinking import shipped

NETWORK = ["size=null", "embed_dim=64", "depth=3", "num_heads=2", "patch_px=8"]
SMALL = [
    "data.clip.frames=8",
    "data.clip.size_px=32",
    *(f"{where}.{item}" for where in ("model", "teachers.image", "teachers.video") for item in NETWORK),
    *("decoder.embed_dim=48", "decoder.depth=2", "decoder.num_heads=2"),
    *("batch.micro=2", "batch.global=4", "engine.precision=fp32", "model.drop_path=0.2"),
]
STEPS = 3


def freeze_parts(student: MaskedPredictor) -> None:
    """Freeze what comes before the blocks, the first block, and a part of the second."""
    encoder = student.encoder
    second = encoder.blocks[1]
    assert isinstance(second, Block)
    for part in (encoder.patch_embed, encoder.blocks[0], second.attention):
        part.requires_grad_(False)


def train(recipe: TrainingRecipe, cluster: Cluster, backend: str | None, frozen: bool) -> dict[str, Any]:
    """Losses of a few steps on random clips, and what became of the compiled stacks."""
    student = build_predictor(recipe)
    if frozen:
        freeze_parts(student)
    engine = start_student(student, parameter_groups(student, recipe.optimizer), recipe, cluster)
    stacks = compile_blocks(engine.module, "student", backend) if backend else []
    for group in engine.optimizer.param_groups:
        group["lr"] = 1e-2
    generator = torch.Generator().manual_seed(cluster.rank)
    slots, rows, columns = recipe.grid
    losses = []
    for _ in range(STEPS):
        clip = torch.randn(2, 3, recipe.data.clip.frames, 32, 32, generator=generator)
        order = torch.rand(2, 1, slots * rows * columns, generator=generator).argsort(dim=-1)
        drop_path = torch.rand(2, 1, student.drop_path_blocks, generator=generator)
        visible, masked = order.split((order.shape[-1] - recipe.masked_tokens, recipe.masked_tokens), dim=-1)
        loss = sum(prediction.square().mean() for prediction in engine(clip, visible, masked, drop_path).values())
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    return {"losses": losses, "faults": [stack.fault for stack in stacks], "shapes": [len(stack.usual) for stack in stacks]}


def main() -> None:
    # The launcher puts --local_rank in front.
    backend, checkpointings, *configs = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    found = []
    with joined_cluster(5, "cpu") as cluster:
        for config, checkpointing, frozen in itertools.product(configs, checkpointings, (False, True)):
            settings = [f"engine.config={config}", f"model.activation_checkpointing={checkpointing}"]
            recipe = shipped([*SMALL, *settings])
            row = {"eager": train(recipe, cluster, None, frozen), "compiled": train(recipe, cluster, backend, frozen)}
            found.append({"case": settings, "frozen": frozen, **row})
        if cluster.is_main:
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
