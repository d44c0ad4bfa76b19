"""Low-rank adaptation under ZeRO: two processes equal one, resumed equals untouched, and its small file is the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launching import alone, launch, losses
from mvd_ds.models.classifiers.adaptation import ADAPTATION_NAME
from mvd_ds.tools.checkpoints import convert_checkpoint
from mvd_ds.tools.export import export

pytestmark = pytest.mark.launch


def test_zero_3_in_two_processes_and_resumed_by_one_equals_untouched(small_finetune: list[str], tmp_path: Path) -> None:
    """Interrupted under ZeRO-3 in two processes and gone on with by one under ZeRO-1, against one process from start to end."""
    ladder = "adaptation={kind: lora, rank: 4, layers: [1, 2], parts: [qkv, mlp]}"
    pooled = "pooling={kind: attention, layers: [0, -1], layer_scale: 0.1}"
    command = ["finetune", "finetune_k400_large", *small_finetune, ladder, pooled]
    command += ["schedule.epochs=1", "schedule.warmup_epochs=0"]
    one, untouched, two = ["batch.micro=8", "engine.config=zero1.json"], tmp_path / "untouched", tmp_path / "two"
    alone(*command, *one, f"run.output={untouched}")
    launch(2, *command, f"run.output={two}", "run.stop_after_steps=5")
    alone(*command, *one, f"run.output={two}")
    assert losses(two) == pytest.approx(losses(untouched), rel=1e-4)
    resumed, expected = (load_file(folder / "model" / "model.safetensors") for folder in (two, untouched))
    assert all(torch.allclose(resumed[name], expected[name], rtol=1e-3, atol=1e-5) for name in resumed | expected)
    small = load_file(two / "model" / ADAPTATION_NAME)
    assert small.keys() & resumed.keys() == {name for name in resumed if not name.startswith("encoder.")}
    assert len([name for name in small if name.endswith("low_rank.up")]) == 2 * 3
    convert_checkpoint(two, tmp_path / "consolidated", None, average_only=True)
    export(two / "model" / ADAPTATION_NAME, tmp_path / "joined", [])
    for name in ("consolidated", "joined"):
        found = load_file(tmp_path / name / "model.safetensors")
        assert found.keys() == resumed.keys() and all(torch.equal(found[key], resumed[key]) for key in found), name
