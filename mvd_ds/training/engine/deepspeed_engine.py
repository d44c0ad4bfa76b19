"""The window onto the cluster: with ``deepspeed_start``, the only files of the package that import deepspeed.

Eleven facts of DeepSpeed 0.19 silently change numbers; those of the JSON are handled in ``engine_config``, those of the
process here.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mvd_ds.config import ConfigError
from mvd_ds.training.cluster import Cluster, local_processes
from mvd_ds.training.engine.engine_shards import with_nvme
from mvd_ds.training.engine.protocol import Engine
from mvd_ds.training.threads import choose_threads

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


#: A hang is ended by the watch of an attempt, which names the laggard; so much later collectives give up by themselves.
LATER_MINUTES = 1.0
_GROUP_OF_ONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def join_cluster(timeout_minutes: float, device: str = "auto") -> Cluster:
    """Join the launcher's process group; without a launcher, a group of one.

    Args:
        timeout_minutes: collectives that wait ``LATER_MINUTES`` longer end the process.
        device: auto takes a GPU where there is one.
    """
    _default_environment()
    use_gpu = device != "cpu" and torch.cuda.is_available()
    if not use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    deepspeed = import_deepspeed()
    local_rank = int(os.environ["LOCAL_RANK"])
    if use_gpu:
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(f"local rank {local_rank} has no GPU: this host has {torch.cuda.device_count()}")
        torch.cuda.set_device(local_rank)
    choose_threads(local_processes(), is_cpu=not use_gpu)
    timeout = datetime.timedelta(minutes=timeout_minutes + LATER_MINUTES)
    deepspeed.init_distributed(dist_backend="nccl" if use_gpu else "gloo", timeout=timeout, verbose=False)
    torch_device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    return Cluster(dist.get_rank(), dist.get_world_size(), torch_device, _hosts_group(timeout) if use_gpu else None)


@contextlib.contextmanager
def joined_cluster(timeout_minutes: float, device: str = "auto") -> Iterator[Cluster]:
    """Join the cluster and leave it cleanly: without that a rank may abort at exit after a successful run.

    A fault is raised on all ranks alike, so each may leave at once; after a good run they wait for the last. Afterwards the
    process is as before, so that it can join again.
    """
    alone, threads = "RANK" not in os.environ, torch.get_num_threads()
    cluster = join_cluster(timeout_minutes, device)
    try:
        yield cluster
        cluster.barrier()
    finally:
        dist.destroy_process_group()
        _forget_groups()
        torch.set_num_threads(threads)
        for name in _GROUP_OF_ONE if alone else ():
            os.environ.pop(name, None)


def _forget_groups() -> None:
    """Make DeepSpeed forget its process groups: it keeps them for the life of a process, and they are gone."""
    from deepspeed.comm import comm
    from deepspeed.utils import groups

    comm.cdb = None
    for name, value in vars(groups).items():
        if isinstance(value, dist.ProcessGroup):
            setattr(groups, name, None)
        elif isinstance(value, dict) and name.endswith("_GROUP"):
            value.clear()


def _hosts_group(timeout: datetime.timedelta) -> Any:
    """Return a gloo group beside NCCL's, for what hosts agree on without waiting for devices."""
    interface = os.environ.get("NCCL_SOCKET_IFNAME", "^")
    if not interface.startswith("^"):  # which names interfaces that are not to be used
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface.lstrip("=").partition(",")[0])
    try:
        return dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"hosts cannot reach each other ({reason}); set GLOO_SOCKET_IFNAME to their network interface"
        ) from None


def full_weights(engine: Engine, cluster: Cluster) -> dict[str, torch.Tensor]:
    """Return a sharded student's fp32 weights by name, whole, on the CPU of rank 0 (empty elsewhere). Collective."""
    deepspeed = import_deepspeed()
    weights = {}
    for name, parameter in engine.module.named_parameters():
        value = deepspeed.utils.safe_get_full_fp32_param(parameter)
        if value is None:  # stage 0, or frozen: there is no master
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                value = parameter.detach().clone()
        if cluster.is_main:
            weights[name] = value.detach().float().cpu().clone()
    return weights


def buildable_operators() -> dict[str, bool]:
    """Return whether each of DeepSpeed's compiled operators could be built here. This package needs none."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    operators: dict[str, bool] = import_deepspeed().ops.__compatible_ops__
    return {name: able for name, able in operators.items() if name not in ("deepspeed_not_implemented", "deepspeed_shm_comm")}


def save_shards(engine: Any, folder: Path, write: Callable[[Path, Any], None], ours: dict[str, Any]) -> None:
    """Have every rank's shard files written by ``write(path, content)``, which must not raise. Collective.

    Args:
        folder: of one step; it exists.
        ours: plain values kept in the file of model states.
    """
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    class Writer(TorchCheckpointEngine):
        def save(self, state_dict: Any, path: str) -> None:
            write(Path(path), with_nvme(engine, state_dict))

    before = engine.checkpoint_engine
    engine.checkpoint_engine = Writer()
    # Scripts that DeepSpeed copies beside the checkpoints: what they do, `mvd_ds checkpoints` does without running pickles.
    engine._copy_recovery_script = lambda _folder: None
    # What is on NVMe is written into the shards themselves, so that any layout can take it over; DeepSpeed copies its files.
    engine.zero_nvme_offload_optimizer = lambda: False
    try:
        engine.save_checkpoint(str(folder.parent), tag=folder.name, client_state=ours, save_latest=False)
    finally:
        engine.checkpoint_engine = before


def _default_environment() -> None:
    """Make a process that was started without a launcher a group of one, on a port that the system chooses."""
    if "RANK" not in os.environ:
        os.environ.update(_GROUP_OF_ONE)


def import_deepspeed() -> Any:
    """Import deepspeed, quiet, and without what it compiles at start: two operators for inference (minutes) and Muon."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|deepspeed)\..*")
    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _import_muon()
    return deepspeed


def _import_muon() -> None:
    """Import DeepSpeed's Muon without compiling its functions.

    Every engine imports it, and its decorators would load torch's compiler: 1.6 s of a core, for an optimizer that no recipe
    has.
    """
    from deepspeed.runtime import compiler

    decorate, compiler.compile = compiler.compile, lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = decorate
