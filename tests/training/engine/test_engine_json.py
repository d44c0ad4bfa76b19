"""The engine configs: what each DeepSpeed JSON holds, what DeepSpeed makes of it, and what the engine refuses.

Several tests pin a default of DeepSpeed that changes numbers silently. When an upgrade turns one red, the default moved:
read ds_configs/README.md again before the pin in requirements.txt is lifted.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.config.base import ENGINE_FOLDER
from mvd_ds.models.layers import Block
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.engine.deepspeed_start import zero_faults
from mvd_ds.training.engine.engine_config import Place, Sizes, student_config, teacher_config

os.environ.setdefault("DS_ACCELERATOR", "cpu" if not torch.cuda.is_available() else "cuda")

STAGES = {"zero1": 1, "zero2": 2, "zero3": 3, "zero3_lowmem": 3, "zero3_hpz": 3, "zero3_offload": 3, "zero3_nvme": 3}
TEACHERS = ("teacher_zero3", "teacher_zero3_offload")
ALL = (*STAGES, *TEACHERS)
SHARDED = [name for name in ALL if STAGES.get(name, 3) == 3]
FILLED = {"stage3_prefetch_bucket_size", "stage3_max_live_parameters"}
BLOCK = 12 * 128**2
SIZES = Sizes(block=BLOCK, tensor=4 * 128**2, tensors_per_block=12)


def _student(recipe: TrainingRecipe, world: int, **place: Any) -> dict[str, Any]:
    return student_config(recipe, Place(world, per_host=world, **place), SIZES, zero_faults)


def _teacher(recipe: TrainingRecipe, placement: str, **place: Any) -> dict[str, Any]:
    return teacher_config(recipe, placement, Place(2, per_host=2, **place), SIZES, zero_faults)


def _json(name: str) -> dict[str, Any]:
    values = json.loads((ENGINE_FOLDER / f"{name}.json").read_text())
    assert isinstance(values, dict)
    return values


def _zero(name: str) -> dict[str, Any]:
    return _json(name)["zero_optimization"]


def _recipe(*overrides: str) -> TrainingRecipe:
    recipe = load_recipe("quickstart_distill", overrides)
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def _leaves(values: Any) -> list[Any]:
    if isinstance(values, dict | list):
        return [leaf for value in (values.values() if isinstance(values, dict) else values) for leaf in _leaves(value)]
    return [values]


def _parsed(zero: dict[str, Any]) -> Any:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    return DeepSpeedZeroConfig(**zero)


def test_the_folder_holds_what_its_readme_describes() -> None:
    assert {path.stem for path in ENGINE_FOLDER.glob("*.json")} == set(ALL)
    readme = (ENGINE_FOLDER / "README.md").read_text()
    assert all(f"`{name}.json`" in readme for name in ALL) and len(readme.splitlines()) <= 60


@pytest.mark.parametrize("name", ALL)
def test_a_json_owns_zero_and_communication_only(name: str) -> None:
    extra = {
        "zero3_offload": {"zero_force_ds_cpu_optimizer"},
        "zero3_nvme": {"zero_force_ds_cpu_optimizer", "aio"},
    }.get(name, set())
    assert set(_json(name)) == {"zero_optimization"} | extra
    assert _zero(name)["stage"] == STAGES.get(name, 3)
    assert {leaf for leaf in _leaves(_json(name)) if isinstance(leaf, str)} <= {"Block", "cpu", "nvme"}  # so none is "auto"


@pytest.mark.parametrize("name", ALL)
def test_deepspeed_understands_every_key(name: str) -> None:
    parsed = _parsed({**dict.fromkeys(FILLED, 1), **_zero(name)})
    written = {key.removeprefix("stage3_"): value for key, value in _zero(name).items()}
    for key, value in written.items():
        got = getattr(parsed, key)
        assert {k: v for k, v in got.model_dump().items() if k in value} == value if isinstance(value, dict) else got == value, (
            key
        )
    with pytest.raises(ValueError, match="overlap_com"):
        _parsed({"overlap_com": True})


@pytest.mark.parametrize("name", ALL)
def test_functional_linear_stays_torchs_own(name: str) -> None:
    assert _zero(name)["memory_efficient_linear"] is False


@pytest.mark.parametrize("name", ALL)
def test_buckets_are_small_and_overlap_is_said(name: str) -> None:
    zero = _zero(name)
    for key in ("reduce_bucket_size", "allgather_bucket_size"):
        assert isinstance(zero[key], int) and 2e7 <= zero[key] <= 5e7
    assert zero["overlap_comm"] is (zero["stage"] == 3)
    assert name in TEACHERS or (zero["contiguous_gradients"], zero["reduce_scatter"]) == (True, True)


@pytest.mark.parametrize("name", SHARDED)
def test_thresholds_are_written_or_left_to_the_engine(name: str) -> None:
    zero = _zero(name)
    assert set(zero) & FILLED == ({"stage3_max_live_parameters"} if name == "zero3" else set())
    # 0: parameters are released after use; 1e9: an L or H student stays whole between forward and backward, on purpose
    assert zero["stage3_max_reuse_distance"] == (1_000_000_000 if name == "zero3" else 0)
    assert name != "zero3" or zero["stage3_max_live_parameters"] == 1_000_000_000
    assert zero["leaf_module"] == {"classes": ["Block"]}


@pytest.mark.parametrize("name", ALL)
def test_features_that_are_broken_in_this_release_are_not_used(name: str) -> None:
    broken = {"zero_quantized_nontrainable_weights", "zero_quantized_weights", "stage3_module_granularity_threshold"}
    assert not broken & set(_zero(name))


def test_offload_is_where_its_name_says() -> None:
    pinned = {"device": "cpu", "pin_memory": True}
    where = {name: {k: v for k, v in _zero(name).items() if k.startswith("offload")} for name in ALL}
    assert where.pop("zero3_offload") == {"offload_optimizer": pinned}
    assert where.pop("zero3_nvme") == {"offload_optimizer": {"device": "nvme", "pin_memory": True, "buffer_count": 4}}
    assert where.pop("teacher_zero3_offload") == {"offload_param": pinned}
    assert not any(where.values())
    assert _json("zero3_offload")["zero_force_ds_cpu_optimizer"] is False  # torch's AdamW; DeepSpeed's wants a compiler


def test_every_block_is_a_leaf_and_every_matrix_of_the_tiny_encoder_is_sharded() -> None:
    from deepspeed.utils import get_z3_leaf_modules
    from deepspeed.utils.z3_leaf_module import apply_zero_leaf_module_config

    student = build_predictor(_recipe())
    apply_zero_leaf_module_config(student, _parsed(_zero("zero3")).leaf_module)
    leaves = get_z3_leaf_modules(student)
    assert len(leaves) == 4 + 2 * 1 and all(type(leaf) is Block for leaf in leaves)
    threshold = _zero("zero3")["stage3_param_persistence_threshold"]
    for name, parameter in student.encoder.named_parameters():
        is_vector = sum(size > 1 for size in parameter.shape) <= 1
        assert (parameter.numel() <= threshold) == is_vector, name
    assert threshold >= 4 * 1280  # the longest vector of the huge model: the bias of its MLP


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", STAGES)
def test_the_engine_gets_batch_precision_and_thresholds(name: str, world: int) -> None:
    recipe = _recipe(f"engine.config={name}.json", "engine.precision=bf16", "batch.micro=16", "batch.global=64")
    values = _student(recipe, world, nvme=Path("/nvme/run/student"))
    assert (values["train_batch_size"], values["train_micro_batch_size_per_gpu"]) == (64, 16)
    assert values["gradient_accumulation_steps"] == 4 // world
    assert values["gradient_clipping"] == 0.0  # written out: DeepSpeed's own default is 1.0
    assert values["bf16"] == {"enabled": True, "check_grad_overflow": True}
    zero = values["zero_optimization"]
    if STAGES[name] == 3:
        assert zero["stage3_prefetch_bucket_size"] == 2 * BLOCK
        assert zero["stage3_max_live_parameters"] == (1_000_000_000 if name == "zero3" else 4 * BLOCK)
    # stage 1 with fp32 accumulation would be another optimizer class, with its own bugs
    assert values.get("data_types", {}).get("grad_accum_dtype") == (None if STAGES[name] == 1 else "fp32")


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teachers_engine_is_offloaded_only_where_its_placement_says(name: str) -> None:
    recipe = _recipe(f"engine.teacher_config={name}.json")
    values = _teacher(recipe, "zero3_offload")
    assert values["zero_optimization"]["offload_param"]["device"] == "cpu" and "optimizer" not in values
    assert values["zero_optimization"]["stage3_max_live_parameters"] == 4 * BLOCK
    if name == "teacher_zero3":
        assert "offload_param" not in _teacher(recipe, "zero3")["zero_optimization"]
    else:
        with pytest.raises(ConfigError, match="offload_param contradicts placement zero3; choose zero3_offload"):
            _teacher(recipe, "zero3")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"gradient_clipping": 1.0}, "gradient_clipping 1.0 contradicts optimizer.gradient_clipping"),
    ({"train_batch_size": 32}, "train_batch_size 32 contradicts batch.global"),
    ({"fp16": {"enabled": True}}, "fp16 belongs to the recipe (engine.precision)"),
    ({"optimizer": {"type": "Adam"}}, "optimizer belongs to the recipe"),
    ({"zero_optimisation": {}}, "zero_optimisation is not a key that the engine knows"),
    ({"elasticity": {}}, "elasticity is not a key that the engine knows"),
    ({"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}, 'zero_optimization.reduce_bucket_size is "auto"'),
    ({"zero_optimization": {"stage": 3}}, "memory_efficient_linear must be false"),
    (
        {"zero_optimization": {"stage": 2, "overlap_com": True}},
        "zero_optimization.overlap_com is not a key that the engine knows",
    ),
    (
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"devise": "cpu"}}},
        "offload_optimizer.devise is not a key that the engine knows",
    ),
    ({"zero_optimization": {"stage": 2, "reduce_bucket_size": -1}}, "reduce_bucket_size -1: Input should be greater"),
    ({"zero_optimization": {"stage": 2, "zero_hpz_partition_size": 3}}, "zero_hpz_partition_size 3: this host runs 2"),
    ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}}, "set engine.nvme_folder"),
    ({"zero_optimization": {"stage": 2, "offload_optimizer": "cpu"}}, "offload_optimizer 'cpu': Input should be a valid dict"),
    ({"zero_optimization": {"stage": 2, "cpu_offload": True}}, "cpu_offload is deprecated; write offload_optimizer"),
    ({"zero_optimization": {"stage": "2"}}, "zero_optimization.stage '2' would be taken for 2"),
    ({"zero_optimization": {"stage": True}}, "zero_optimization.stage True would be taken for 1"),
    ({"aio": {"block_sizes": 1}}, "aio.block_sizes is not a key that the engine knows; did you mean 'block_size'?"),
    ({"checkpoint": {"parallel_write": {"pipeline": True}}}, "checkpoint.parallel_write.pipeline is not a key"),
    ({"data_types": "fp32"}, "data_types 'fp32': Input should be a valid dictionary"),
    ({"data_types": {"grad_accum_dtype": "fp17"}}, "data_types.grad_accum_dtype 'fp17': Input should be 'fp32'"),
    ({"wall_clock_breakdown": "yes"}, "wall_clock_breakdown 'yes': Input should be a valid boolean"),
    ({"zero_optimization": {"stage": 1, "compute_grad_norm": False}}, "a step that is not finite would not be seen"),
    ({"zero_optimization": {"stage": 0}}, "stage 0 with engine.precision bf16 starts Adam one step late"),
]


def _refusal(path: Path, values: dict[str, Any]) -> str:
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        _student(_recipe(f"engine.config={path}", "engine.precision=bf16"), 2)
    return str(caught.value)


@pytest.mark.parametrize(("change", "expected"), BAD, ids=[expected.split(" ")[0] for _, expected in BAD])
def test_a_json_that_contradicts_is_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    message = _refusal(tmp_path / "mine.json", {**_json("zero2"), **change})
    assert message.startswith(str(tmp_path / "mine.json")) and expected in message and "\n" not in message


def test_a_nodes_secondary_shards_are_as_many_as_its_processes() -> None:
    values = _student(_recipe("engine.config=zero3_hpz.json"), 2)
    assert values["zero_optimization"]["zero_hpz_partition_size"] == 2


def test_shards_on_nvme_get_the_folder_and_buffers_that_hold_the_blocks_in_flight() -> None:
    folder = Path("/nvme/run/video")
    offload = _teacher(_recipe(), "zero3_nvme", nvme=folder)["zero_optimization"]["offload_param"]
    assert (offload["device"], offload["nvme_path"]) == ("nvme", str(folder))
    assert offload["buffer_size"] >= SIZES.tensor / 2 and offload["buffer_size"] % 1024 == 0
    assert offload["buffer_count"] >= 3 * SIZES.tensors_per_block
    with pytest.raises(ConfigError, match=r"set engine\.nvme_folder"):
        _teacher(_recipe(), "zero3_nvme")


def test_every_fault_at_every_level_comes_in_one_message(tmp_path: Path) -> None:
    values = {
        "gradient_clipping": 1.0,
        "fp16": {"enabled": True},
        "zero_optimisation": {},
        "aio": {"block_sizes": 1, "queue_depth": "deep"},
        "checkpoint": {"parallel_write": {"pipeline": True}},
        "zero_optimization": {"stage": 3, "overlap_com": True, "reduce_bucket_size": "auto", "leaf_module": {"class": ["Block"]}},
    }
    message = _refusal(tmp_path / "mine.json", values)
    expected = [
        "gradient_clipping 1.0 contradicts",
        "fp16 belongs to the recipe",
        "zero_optimisation is not a key",
        "aio.block_sizes is not a key",
        "aio.queue_depth 'deep'",
        "checkpoint.parallel_write.pipeline is not a key",
        "memory_efficient_linear must be false",
        "zero_optimization.overlap_com is not a key that the engine knows; did you mean 'overlap_comm'?",
        'zero_optimization.reduce_bucket_size is "auto"',
        "zero_optimization.leaf_module.class is not a key that the engine knows; did you mean 'classes'?",
    ]
    assert [part for part in expected if part not in message] == [], message


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """JSON takes the last of them, and nobody the first."""
    path = tmp_path / "mine.json"
    path.write_text('{"zero_optimization": {"stage": 2, "stage": 1}, "dump_state": 1}')
    with pytest.raises(ConfigError, match="stage stands twice in one object; dump_state 1: Input should be a valid boolean"):
        _student(_recipe(f"engine.config={path}"), 2)


def test_json_that_cannot_be_read_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{\n "zero_optimization": {"stage": 3,}\n}')
    with pytest.raises(ConfigError, match=r"mine.json:2: is not JSON: "):
        _student(_recipe(f"engine.config={path}"), 2)


def test_the_defaults_that_made_us_write_these_files_are_still_there() -> None:
    from deepspeed.runtime.constants import GRADIENT_CLIPPING_DEFAULT

    default = _parsed({"stage": 3})
    assert default.memory_efficient_linear is True and default.reduce_bucket_size == 5e8
    assert default.max_live_parameters == default.max_reuse_distance == 1e9
    assert (default.prefetch_bucket_size, default.param_persistence_threshold) == (5e7, 1e5)
    assert default.overlap_comm is True and _parsed({"stage": 2}).overlap_comm is False
    assert GRADIENT_CLIPPING_DEFAULT == 1.0
