"""The DeepSpeed JSONs of ds_configs/: read, and every fault of one named in one message.

DeepSpeed takes unknown keys outside of ``zero_optimization`` silently, finds wrong values there late or never, and knows no
"auto"; JSON takes the last of two equal keys. All of that is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from mvd_ds.files import ConfigError, did_you_mean

Dtype = Literal["fp32", "bf16", "fp16"]


class _Keys(BaseModel):
    """An object with keys that DeepSpeed reads, and no others, and values of the types that it expects."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _DataTypes(_Keys):
    grad_accum_dtype: Dtype | None = None
    buffer_dtype: Dtype | None = None


class _Aio(_Keys):
    block_size: PositiveInt = 1
    queue_depth: PositiveInt = 1
    intra_op_parallelism: PositiveInt = 1
    single_submit: bool = False
    overlap_events: bool = True
    use_gds: bool = False


class _ParallelWrite(_Keys):
    pipeline_stage: bool = False


class _Checkpoint(_Keys):
    tag_validation: Literal["Ignore", "Warn", "Fail"] = "Warn"
    use_node_local_storage: bool = False
    parallel_write: _ParallelWrite = _ParallelWrite()


class _CommsLogger(_Keys):
    enabled: bool = False
    verbose: bool = False
    prof_all: bool = True
    debug: bool = False
    prof_ops: list[str] = []


class EngineJson(_Keys):
    """An engine JSON without ``zero_optimization``, which DeepSpeed checks itself. It is read for its faults only."""

    communication_data_type: Dtype | None = None
    data_types: _DataTypes = _DataTypes()
    aio: _Aio = _Aio()
    checkpoint: _Checkpoint = _Checkpoint()
    comms_logger: _CommsLogger = _CommsLogger()
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "error"
    dump_state: bool = False
    zero_force_ds_cpu_optimizer: bool = True
    zero_allow_untested_optimizer: bool = False
    wall_clock_breakdown: bool = False
    disable_python_gc: bool = False
    prescale_gradients: bool = False
    gradient_predivide_factor: PositiveFloat = 1.0


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


def read_engine_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the object in ``path``, and a fault for every key that stands twice.

    Raises:
        ConfigError: if it is not JSON, or no engine config.
    """
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice.extend(f"{name} stands twice in one object" for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(pairs)

    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: is not JSON: {error.msg}") from None
    if not isinstance(values, dict) or not isinstance(values.get("zero_optimization", {}), dict):
        raise ConfigError(f"{path}: an engine config is a JSON object with an object zero_optimization")
    return values, twice


def faults_of(values: dict[str, Any], owned: dict[str, Any], zero_faults: ZeroFaults) -> list[str]:
    """Return everything that is wrong with an engine config, each fault in half a sentence.

    Args:
        values: the JSON.
        owned: keys that the recipe fills; a JSON may repeat them, not contradict them.
        zero_faults: DeepSpeed's own check of ``zero_optimization``.
    """
    faults = []
    for key in (key for key in values if key in RECIPE_KEYS):
        if key not in owned:
            faults.append(f"{key} belongs to the recipe ({RECIPE_KEYS[key]}); leave it out")
        elif values[key] != owned[key]:
            faults.append(f"{key} {values[key]} contradicts {RECIPE_KEYS[key]} of the recipe ({owned[key]}); leave it out")
    faults += [f'{where} is "auto", which DeepSpeed does not resolve' for where in _autos(values)]
    stated = _without_autos(values)
    zero = stated.pop("zero_optimization", {})
    if zero.get("stage") == 3 and zero.get("memory_efficient_linear", True):
        faults.append("zero_optimization.memory_efficient_linear must be false: it replaces Linear in the whole process")
    if zero.get("zero_quantized_nontrainable_weights"):
        faults.append("zero_optimization.zero_quantized_nontrainable_weights zeroes frozen weights in this DeepSpeed")
    try:
        EngineJson.model_validate({key: value for key, value in stated.items() if key not in RECIPE_KEYS})
    except ValidationError as error:
        faults += faults_in(error, EngineJson)
    return faults + zero_faults(zero)


def faults_in(error: ValidationError, keys: type[BaseModel], prefix: str = "") -> list[str]:
    """Return pydantic's faults, each in half a sentence; an unknown key with the nearest known one."""
    faults = []
    for fault in error.errors():
        where = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            hint = did_you_mean(fault["loc"][-1], _names(keys, fault["loc"][:-1]))
            faults.append("; ".join(filter(None, (f"{prefix}{where} is not a key that the engine knows", hint))))
        else:
            faults.append(f"{prefix}{where} {fault['input']!r}: {fault['msg']}")
    return faults


def settings_in(zero: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the object ``key``; empty if there is none, or something else that DeepSpeed finds wrong."""
    value = zero.get(key)
    return value if isinstance(value, dict) else {}


def refuse(path: Path, faults: list[str]) -> None:
    """Stop if an engine config has faults.

    Raises:
        ConfigError: with all ``faults``, if there are any.
    """
    if faults:
        raise ConfigError("; ".join([f"{path}: {faults[0]}", *faults[1:]]))


def _names(keys: type[BaseModel], where: Iterable[Any]) -> list[str]:
    """Return the names that the object at ``where`` inside ``keys`` may hold, without deprecated ones."""
    for part in where:
        fields = {field.alias or name: field for name, field in keys.model_fields.items()}
        kind = fields[part].annotation
        inner = [kind, *getattr(kind, "__args__", ())]
        keys = next((choice for choice in inner if isinstance(choice, type) and issubclass(choice, BaseModel)), BaseModel)
    named = [(field.alias or name, field.json_schema_extra) for name, field in keys.model_fields.items()]
    return [name for name, extra in named if not (isinstance(extra, dict) and extra.get("deprecated"))]


def _autos(values: Any, prefix: str = "") -> list[str]:
    if isinstance(values, dict):
        return [found for key, value in values.items() for found in _autos(value, f"{prefix}.{key}" if prefix else key)]
    return [prefix] if values == "auto" else []


def _without_autos(values: dict[str, Any]) -> dict[str, Any]:
    kept = {key: _without_autos(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value != "auto"}
