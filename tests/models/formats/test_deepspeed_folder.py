"""ZeRO checkpoint folders: shards of odd sizes are put together exactly, and every hole is named.

The folders are written here as DeepSpeed writes them; tests/distributed reads those of real runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mvd_ds
from mvd_ds.config import ConfigError, TrainingRecipe, dump, validate
from mvd_ds.models import build_teacher
from mvd_ds.runs.student import build_predictor
from zero_files import write_shards, write_sizes

RECIPE = {
    "objective": "video_reconstruction",
    "data": {"clip": {"frames": 4, "size_px": 32}},
    "model": {"embed_dim": 40, "depth": 2, "num_heads": 2, "patch_px": 8, "position": "sinusoid1d"},
    "decoder": {"embed_dim": 30, "depth": 1, "num_heads": 3},
    "pixels": {},
    "schedule": {"steps": 2},
}


def write(folder: Path, stage: int, world: int) -> dict[str, torch.Tensor]:
    recipe = validate(RECIPE, "test")
    assert isinstance(recipe, TrainingRecipe)
    state = build_predictor(recipe).state_dict()
    step = folder / "step-00000004"
    write_shards(step, stage, world, state, {})
    write_sizes(step, 4, dump(recipe))
    (folder / "latest").write_text(step.name + "\n")
    return state


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 12])
def test_shards_are_put_together_exactly(tmp_path, stage, world):
    state = write(tmp_path / "checkpoints", stage, world)
    for place in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "step-00000004"):
        checkpoint = mvd_ds.read_checkpoint(place)
        assert checkpoint.layout.name == "mvd_ds" and checkpoint.recipe.model.embed_dim == 40
        assert checkpoint.state.keys() == state.keys()
        assert all(torch.equal(checkpoint.state[name], state[name]) for name in state)
    assert checkpoint.notes == [f"put together the fp32 masters of step 4 from {world} ranks of ZeRO-{stage}"]


def test_a_checkpoint_is_a_teacher(tmp_path, recipe):
    state = write(tmp_path / "checkpoints", 3, 2)
    chosen = recipe(teachers={"video": {"weights": str(tmp_path)}})
    teacher = build_teacher("video", chosen.teachers["video"], chosen)
    assert all(torch.equal(value, state[f"encoder.{name}"]) for name, value in teacher.encoder.state_dict().items())


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda step: (step / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink(), "is missing or has another size"),
        (lambda step: (step / "mp_rank_00_model_states.pt").write_bytes(b"x"), "is missing or has another size"),
        (lambda step: (step / "manifest.json").write_text("{"), "is not JSON"),
    ],
)
def test_holes_are_named(tmp_path, harm, words):
    write(tmp_path, 2, 2)
    harm(tmp_path / "step-00000004")
    with pytest.raises(ConfigError, match=words):
        mvd_ds.read_checkpoint(tmp_path)


def test_shards_that_do_not_fit_are_refused(tmp_path):
    write(tmp_path, 3, 2)
    step = tmp_path / "step-00000004"
    path = step / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    shard = torch.load(path, weights_only=False)
    shard["optimizer_state_dict"]["fp32_flat_groups"][0] = torch.zeros(5)
    torch.save(shard, path)
    write_sizes(step, 4, {})
    with pytest.raises(ConfigError, match="its shards do not fit each other"):
        mvd_ds.read_checkpoint(tmp_path)


class Harmful:
    def __reduce__(self):
        return eval, ("1 + 1",)


def test_code_in_a_shard_is_not_run(tmp_path):
    write(tmp_path, 2, 1)
    step = tmp_path / "step-00000004"
    path = step / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": Harmful()}, path)
    write_sizes(step, 4, {})
    with pytest.raises(ConfigError, match=r"refused: reading it would run pickled code \((\w+\.)?eval\)"):
        mvd_ds.read_checkpoint(tmp_path)
