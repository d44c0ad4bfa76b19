"""The command of one attempt: the ``deepspeed`` launcher, behind srun in a SLURM job."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from mvd_ds.config import ConfigError
from mvd_ds.tools.launch.environment import deepspeed_env, deepspeed_program, forwarded, pdsh_argument
from mvd_ds.tools.launch.hosts import Host
from mvd_ds.tools.launch.options import LaunchOptions


class Start(NamedTuple):
    """The command of one attempt, its environment, and the files that it reads."""

    command: list[str]
    environment: dict[str, str]
    """Variables added to those of this process."""
    files: dict[Path, str]
    """Text by path, written before the start."""


def build_start(options: LaunchOptions, hosts: list[Host], port: int, environment: dict[str, str], folder: Path) -> Start:
    """Return the start on ``hosts`` (none in mode local).

    Args:
        folder: folder of the launch's own files, which all hosts share.

    Raises:
        ConfigError: if devices or variables cannot be handed on.
    """
    training = ["--module", "mvd_ds", options.command, options.recipe, *options.overrides]
    if options.mode == "rank":
        _require_rank()
        return Start([sys.executable, "-u", "-m", "mvd_ds", *training[2:]], environment, {})
    base = [deepspeed_program(), "--log_level", "error", "--master_port", str(port), *options.deepspeed]
    if options.mode == "local":
        return Start([*base, *_local_devices(options), *training], environment, {})
    hostfile = folder / "hostfile"
    files = {hostfile: "".join(f"{host}\n" for host in hosts)}
    base += ["--hostfile", str(hostfile)]
    if options.mode == "hostfile":
        return _through_pdsh(options, base, training, environment, files, folder)
    address = options.master_addr or hosts[0].name
    base += ["--no_ssh", "--master_addr", address]
    if options.mode == "node":
        return Start([*base, "--node_rank", str(options.node_rank), *training], environment, files)
    # Each node's shell has its own number in the step.
    here = f'exec {shlex.join(base)} --node_rank "$SLURM_NODEID" {shlex.join(training)}'
    srun = ["srun", "--kill-on-bad-exit=1", f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}", "--ntasks-per-node=1"]
    return Start([*srun, "--nodelist=" + ",".join(host.name for host in hosts), "bash", "-c", here], environment, files)


def _through_pdsh(
    options: LaunchOptions,
    base: list[str],
    training: list[str],
    environment: dict[str, str],
    files: dict[Path, str],
    folder: Path,
) -> Start:
    variables = folder / "deepspeed_env"
    files = files | {variables: deepspeed_env(forwarded(os.environ | environment, options.forward))}
    environment = environment | {"DS_ENV_FILE": str(variables)}
    # A single host is reached through ssh, too: it need not be this one.
    base = [*base, "--force_multi"]
    if options.master_addr:
        base += ["--master_addr", options.master_addr]
    return Start([*base, *(pdsh_argument(argument) for argument in training)], environment, files)


def _require_rank() -> None:
    missing = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(f"launch --one-rank: not set: {', '.join(missing)}; torchrun and other starters of ranks set them")


def _local_devices(options: LaunchOptions) -> list[str]:
    """Return options that choose the devices here: with a count, the launcher would ignore CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not re.fullmatch(r"\d+(,\d+)*", visible):
        return [] if options.processes is None else ["--num_accelerators", str(options.processes)]
    devices = visible.split(",")
    if options.processes is not None and options.processes > len(devices):
        raise ConfigError(
            f"launch: --processes {options.processes} is more than the {len(devices)} devices of CUDA_VISIBLE_DEVICES={visible}"
        )
    return ["--include", "localhost:" + ",".join(devices[: options.processes])]


def as_shell(start: Start) -> str:
    """Return ``start`` as text that a shell would take: files, environment, command."""
    parts = []
    for path, text in start.files.items():
        parts.append(f"# {path}\n" + "".join(f"#   {line}\n" for line in text.splitlines()))
    parts += [f"export {name}={shlex.quote(value)}" for name, value in sorted(start.environment.items())]
    return "\n".join([*parts, shlex.join(start.command)])
