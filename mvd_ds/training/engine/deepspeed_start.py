"""The second pane of the window: engines for students and teachers, from whole models or from plans of them.

With ``deepspeed_engine`` these are the only files that import deepspeed.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from mvd_ds.config import ConfigError, LearningRecipe
from mvd_ds.files import encoded
from mvd_ds.training.cluster import Cluster, local_processes
from mvd_ds.training.engine.deepspeed_engine import DTYPES, import_deepspeed
from mvd_ds.training.engine.engine_config import Place, sizes_of, student_config, teacher_config
from mvd_ds.training.engine.engine_json import faults_in
from mvd_ds.training.engine.engine_shards import set_masters
from mvd_ds.training.optim import build_optimizer

#: Larger models are streamed into shards: up to here a whole fp32 copy in the memory of every process is cheap.
WHOLE_PARAMETERS = 1_000_000_000


class ModelBlueprint(Protocol):
    """A plan of a model that has no memory yet, such as ``models.blueprint.Blueprint``."""

    @property
    def structure(self) -> nn.Module: ...
    def build(self) -> nn.Module: ...
    def skeleton(self) -> nn.Module: ...
    def parts(self, skeleton: nn.Module) -> Iterator[tuple[str, nn.Module]]: ...


def start_student(
    model: nn.Module | ModelBlueprint, groups: list[dict[str, Any]], recipe: LearningRecipe, cluster: Cluster
) -> Any:
    """Start the training engine of a plain fp32 model on the CPU, or of a plan for one. Collective.

    A plan becomes a whole model first, unless ``engine.build`` has its values streamed into shards part by part. In bf16
    DeepSpeed makes the fp32 masters from rounded weights; they are set back to the exact ones here.

    Args:
        model: the model, or the plan.
        groups: AdamW parameter groups over ``model``, or over the structure of the plan.
        recipe: the training run.
        cluster: its processes.

    Raises:
        ConfigError: in one line, if the engine's JSON or ``engine.build`` does not fit the recipe.
    """
    deepspeed = import_deepspeed()
    structure = model if isinstance(model, nn.Module) else model.structure
    place = Place(cluster.world, local_processes(), _nvme_folder(recipe, "student"))
    config = student_config(recipe, place, sizes_of(structure), zero_faults)
    streamed = is_streamed(recipe, model)
    if streamed and config["zero_optimization"].get("stage") != 3:
        raise ConfigError(f"engine.build streamed needs ZeRO stage 3, {recipe.engine.config} has another; choose zero3.json")
    if isinstance(model, nn.Module):
        whole = model
    else:
        whole = _stream(model, config, DTYPES[recipe.engine.precision], cluster) if streamed else model.build()
    exact = _exact_values(model, whole, streamed) if recipe.engine.precision == "bf16" else iter(())
    optimizer = build_optimizer(_groups_over(whole, structure, groups), recipe.optimizer)
    with _second_shards(config):
        engine, *_ = deepspeed.initialize(model=whole, optimizer=optimizer, config=config, dist_init_required=False)
    set_masters(engine, exact)
    return engine


def start_teacher(
    teacher: nn.Module | ModelBlueprint, placement: str, recipe: LearningRecipe, cluster: Cluster, name: str = "teacher"
) -> Callable[..., torch.Tensor]:
    """Start a frozen teacher at its placement: the module itself if replicated, else an inference-only ZeRO-3 engine.

    Args:
        teacher: the model, or a plan of it.
        placement: ``replicated``, ``zero3``, ``zero3_node``, ``zero3_offload`` or ``zero3_nvme``.
        recipe: the training run.
        cluster: its processes.
        name: name of the folder of its shards, where they are kept on NVMe.

    Raises:
        ConfigError: in one line, if the engine's JSON does not fit the placement.
    """
    dtype = DTYPES[recipe.engine.precision]
    structure = teacher if isinstance(teacher, nn.Module) else teacher.structure
    if placement == "replicated":
        return (teacher if isinstance(teacher, nn.Module) else teacher.build()).to(cluster.device, dtype)
    deepspeed = import_deepspeed()
    group = _node_group(cluster) if placement == "zero3_node" else None
    world = local_processes() if group is not None else cluster.world
    # Other processes of the run may have shards of their own of the same teacher.
    place = Place(world, local_processes(), _nvme_folder(recipe, f"{name}-{cluster.first}" if cluster.first else name))
    config = teacher_config(recipe, placement, place, sizes_of(structure), zero_faults)
    if not isinstance(teacher, nn.Module) and is_streamed(recipe, teacher):
        module = _stream(teacher, config, dtype, cluster, group)
    else:
        module = teacher if isinstance(teacher, nn.Module) else teacher.build()
        # DeepSpeed's own switch for node-local shards, hpZ, fails on an engine without an optimizer; and its engine has buffers
        # for the disk in bf16 where a device knows no fp16, whatever the weights are: without a dtype, Init reads the config.
        if placement in ("zero3_node", "zero3_nvme"):
            _cast(module.parameters(), dtype)
            deepspeed.zero.Init(module=module, data_parallel_group=group, config_dict_or_path=config)
        _move_buffers(module, cluster.device, dtype)
    with _second_shards(config):
        engine, *_ = deepspeed.initialize(model=module, config=config, dist_init_required=False)
    engine.eval()
    return engine


def is_streamed(recipe: LearningRecipe, model: nn.Module | ModelBlueprint) -> bool:
    """Return whether a plan is built part by part, as ``engine.build`` says or for its size."""
    if isinstance(model, nn.Module) or not hasattr(model, "parts"):
        return False
    if recipe.engine.build == "auto":
        return sum(parameter.numel() for parameter in model.structure.parameters()) > WHOLE_PARAMETERS
    return recipe.engine.build == "streamed"


def _stream(plan: ModelBlueprint, config: dict[str, Any], dtype: torch.dtype, cluster: Cluster, group: Any = None) -> nn.Module:
    """Build ``plan`` as shards: no process ever holds more than one module of it whole."""
    deepspeed = import_deepspeed()
    model = plan.skeleton()
    with _second_shards(config) as second:
        for _, part in plan.parts(model):
            _cast(part.parameters(recurse=False), dtype)
            deepspeed.zero.Init(
                module=part, data_parallel_group=group, config_dict_or_path=config, zero_param_parallel_group=second
            )
    _move_buffers(model, cluster.device, dtype)
    return model


@contextlib.contextmanager
def _second_shards(config: dict[str, Any]) -> Iterator[Any]:
    """Yield the group within which an engine keeps second shards, if its ``zero_hpz_partition_size`` asks for any. Collective.

    DeepSpeed keeps that group for the process, and gives it to every later engine: a teacher beside such a student would have
    second shards, too, which cost memory and are gathered in place of those that an average is written to.
    """
    from deepspeed.utils import groups

    size = config["zero_optimization"].get("zero_hpz_partition_size", 1)
    kept = groups._ZERO_PARAM_INTRA_PARALLEL_GROUP
    if size == 1:
        groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
    elif kept is None:
        groups._create_zero_param_parallel_group(size)
        kept = groups._ZERO_PARAM_INTRA_PARALLEL_GROUP
    try:
        yield groups._ZERO_PARAM_INTRA_PARALLEL_GROUP
    finally:
        groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = kept


def _cast(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Round values before they become shards: ``zero.Init`` takes them as they are, and says that they have its dtype."""
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)


def _move_buffers(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model's tables to the device: DeepSpeed leaves those of a sharded module where they are.

    Those that are kept with its weights, the statistics of batch norms, get the dtype of the weights; fixed tables keep theirs.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            is_weight = buffer.is_floating_point() and name not in module._non_persistent_buffers_set
            setattr(module, name, buffer.to(device, dtype if is_weight else None))


def _exact_values(model: nn.Module | ModelBlueprint, whole: nn.Module, streamed: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Return fp32 values by name, kept from ``whole`` before the engine rounds it, or made once more, module by module."""
    if isinstance(model, nn.Module) or not streamed:
        return iter([(name, value.detach().clone()) for name, value in whole.named_parameters()])
    parts = model.parts(model.skeleton())
    return ((f"{name}.{key}", value.detach()) for name, part in parts for key, value in _taken(part))


def _taken(part: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters of a module, which forgets each when it is handed out."""
    for key, value in list(part.named_parameters(recurse=False)):
        setattr(part, key, None)
        yield key, value


def _groups_over(whole: nn.Module, structure: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups over the parameters of ``structure`` as groups over those of ``whole``."""
    names = {id(parameter): name for name, parameter in structure.named_parameters()}
    parameters = dict(whole.named_parameters())
    return [{**group, "params": [parameters[names[id(p)]] for p in group["params"]]} for group in groups]


def _node_group(cluster: Cluster) -> Any:
    """Return the group of the processes on this host. Collective."""
    firsts = cluster.gather(cluster.rank - int(os.environ["LOCAL_RANK"]))
    mine = None
    for first in dict.fromkeys(firsts):
        ranks = [rank for rank, other in enumerate(firsts) if other == first]
        group = dist.new_group(ranks)
        mine = group if cluster.rank in ranks else mine
    return mine


def _nvme_folder(recipe: LearningRecipe, name: str) -> Path | None:
    """Return a folder for the shards of one engine alone: DeepSpeed clears it when another engine starts there.

    It is named after the run's output, so that a restart finds and clears what a failed attempt left; one that ends well
    removes it.
    """
    if recipe.engine.nvme_folder is None:
        return None
    run = hashlib.blake2b(encoded(str(Path(recipe.run.output).resolve())), digest_size=6).hexdigest()
    folder = Path(recipe.engine.nvme_folder) / f"mvd_ds-{run}"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / name


def zero_faults(zero: dict[str, Any]) -> list[str]:
    """Return what DeepSpeed finds wrong in an object ``zero_optimization``, or takes for something else, in half sentences."""
    import_deepspeed()
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    prefix = "zero_optimization."
    renamed = {name: field.json_schema_extra or {} for name, field in DeepSpeedZeroConfig.model_fields.items()}
    faults = [
        f"{prefix}{name} is deprecated; write {renamed[name]['new_param']}"
        for name in zero
        if renamed.get(name, {}).get("deprecated")
    ]
    try:
        read = DeepSpeedZeroConfig(**zero)
    except ValidationError as error:
        return faults + faults_in(error, DeepSpeedZeroConfig, prefix)
    return faults + [f"{prefix}{where}" for where in _taken_for(zero, read.model_dump(by_alias=True))]


def _taken_for(stated: dict[str, Any], read: dict[str, Any], where: str = "") -> Iterator[str]:
    """Yield the values that were read as another type than they have: text or true as a number, a number as true."""
    for key, value in stated.items():
        got = read.get(key)
        if isinstance(value, dict) and isinstance(got, dict):
            yield from _taken_for(value, got, f"{where}{key}.")
        elif isinstance(got, int | float) and (isinstance(value, str) or isinstance(value, bool) != isinstance(got, bool)):
            yield f"{where}{key} {value!r} would be taken for {got}; write that"
