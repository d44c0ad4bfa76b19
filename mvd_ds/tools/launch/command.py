"""The command of one attempt: the ``deepspeed`` launcher, behind srun in a SLURM job."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from mvd_ds.files import ConfigError, looks_like_credential
from mvd_ds.tools.launch.environment import deepspeed_env, deepspeed_program, forwarded, hidden_from_deepspeed, pdsh_argument
from mvd_ds.tools.launch.hosts import Host
from mvd_ds.tools.launch.launch_options import LaunchOptions

VARIABLES_FILE = "deepspeed_env"
"""Name of the file, in the launch's folder, of the variables that other hosts get."""


@dataclass(frozen=True)
class Start:
    """The command of one attempt, its environment, and the files that it reads."""

    command: list[str]
    environment: dict[str, str]
    """Variables added to those of this process."""
    files: dict[Path, str]
    """Text by path, written before the start."""
    private_files: dict[Path, str] = field(default_factory=dict)
    """Text by path that the user alone may read; written before the start, removed after the end."""
    hidden: list[str] = field(default_factory=list)
    """Variables of this process that the launcher must not see."""


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
    variables = folder / VARIABLES_FILE
    everything = dict(os.environ) | environment
    private_files = {variables: deepspeed_env(forwarded(everything, options.forward))}
    environment = environment | {"DS_ENV_FILE": str(variables)}
    # A single host is reached through ssh, too: it need not be this one.
    base = [*base, "--force_multi"]
    if options.master_addr:
        base += ["--master_addr", options.master_addr]
    command = [*base, *(pdsh_argument(argument) for argument in training)]
    return Start(command, environment, files, private_files, hidden_from_deepspeed(everything))


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
    """Return ``start`` as text that a shell would take: files, environment, command; values of credentials are not shown."""
    parts = []
    for path, text in (start.files | start.private_files).items():
        lines = [_without_secret(line) for line in text.splitlines()]
        parts.append(f"# {path}\n" + "".join(f"#   {line}\n" for line in lines))
    for name, value in sorted(start.environment.items()):
        parts.append(f"export {name}={'***' if looks_like_credential(name, value) else shlex.quote(value)}")
    return "\n".join([*parts, shlex.join(start.command)])


def _without_secret(line: str) -> str:
    name, equals, value = line.partition("=")
    return f"{name}=***" if equals and looks_like_credential(name.strip(), value) else line
