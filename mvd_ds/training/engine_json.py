"""The DeepSpeed JSONs of ds_configs/: read, and every fault of one named in one message.

DeepSpeed accepts unknown keys outside of ``zero_optimization`` silently and knows no "auto", so both are refused here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvd_ds.config import ConfigError

#: Keys a JSON of ours may hold, and those of its objects (None: a plain value, or an object that DeepSpeed checks itself).
JSON_KEYS: dict[str, set[str] | None] = {
    "zero_optimization": None,
    "communication_data_type": None,
    "data_types": {"grad_accum_dtype", "buffer_dtype"},
    "aio": {"block_size", "queue_depth", "intra_op_parallelism", "single_submit", "overlap_events", "use_gds"},
    "checkpoint": {"tag_validation", "use_node_local_storage", "parallel_write"},
    "comms_logger": {"enabled", "verbose", "prof_all", "debug", "prof_ops"},
    "log_level": None,
    "dump_state": None,
    "zero_force_ds_cpu_optimizer": None,
    "zero_allow_untested_optimizer": None,
    "wall_clock_breakdown": None,
    "disable_python_gc": None,
    "prescale_gradients": None,
    "gradient_predivide_factor": None,
}
#: Keys of the engine that the recipe owns, and the setting that does.
RECIPE_KEYS = {
    "train_batch_size": "batch.global",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "gradient_accumulation_steps": "batch.global / (batch.micro x processes)",
    "gradient_clipping": "optimizer.gradient_clipping",
    "bf16": "engine.precision",
    "fp16": "engine.precision",
    "torch_autocast": "engine.precision",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "tensorboard": "run",
    "steps_per_print": "run.log_every_steps",
}
#: Names what DeepSpeed itself finds wrong in an object ``zero_optimization``.
ZeroFaults = Callable[[dict[str, Any]], list[str]]


def read_engine_json(path: Path) -> dict[str, Any]:
    """The object in ``path``.

    Raises:
        ConfigError: if it is not JSON, or no engine config.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: is not JSON: {error.msg}") from None
    if not isinstance(values, dict) or not isinstance(values.get("zero_optimization", {}), dict):
        raise ConfigError(f"{path}: an engine config is a JSON object with an object zero_optimization")
    return values


def faults_of(values: dict[str, Any], owned: dict[str, Any], zero_faults: ZeroFaults) -> list[str]:
    """Everything that is wrong with an engine config, each in half a sentence.

    Args:
        values: the JSON.
        owned: keys that the recipe fills; a JSON may repeat them, not contradict them.
        zero_faults: DeepSpeed's own check of ``zero_optimization``.
    """
    faults = []
    for key, value in values.items():
        if key in owned:
            if value != owned[key]:
                faults.append(f"{key} {value} contradicts {RECIPE_KEYS[key]} of the recipe ({owned[key]}); leave it out")
        elif key in RECIPE_KEYS:
            faults.append(f"{key} belongs to the recipe ({RECIPE_KEYS[key]}); leave it out")
        elif key not in JSON_KEYS:
            faults.append(f"{key} is not a key the engine knows")
        else:
            faults += _unknown_inside(key, value)
    autos = [f'{where} is "auto", which DeepSpeed does not resolve' for where in _autos(values)]
    zero = values.get("zero_optimization", {})
    if zero.get("stage") == 3 and zero.get("memory_efficient_linear", True):
        faults.append("zero_optimization.memory_efficient_linear must be false: it replaces Linear in the whole process")
    if zero.get("zero_quantized_nontrainable_weights"):
        faults.append("zero_optimization.zero_quantized_nontrainable_weights zeroes frozen weights in this DeepSpeed")
    return faults + autos + ([] if autos else zero_faults(zero))


def refuse(path: Path, faults: list[str]) -> None:
    """
    Raises:
        ConfigError: with all ``faults``, if there are any.
    """
    if faults:
        raise ConfigError("; ".join([f"{path}: {faults[0]}", *faults[1:]]))


def _unknown_inside(key: str, value: Any) -> list[str]:
    known = JSON_KEYS[key]
    if known is None:
        return []
    if not isinstance(value, dict):
        return [f"{key} must be an object with keys of {', '.join(sorted(known))}"]
    return [f"{key}.{inner} is not a key the engine knows" for inner in value if inner not in known]


def _autos(values: Any, prefix: str = "") -> list[str]:
    if isinstance(values, dict):
        return [found for key, value in values.items() for found in _autos(value, f"{prefix}.{key}" if prefix else key)]
    return [prefix] if values == "auto" else []
