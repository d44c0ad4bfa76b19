"""Hostfiles, and commands run on their hosts through ssh within a bounded time, as the deepspeed launcher runs them."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mvd_ds.files import ConfigError, looks_like_credential, one_line
from mvd_ds.tools.doctor.compare import SKEW_SECONDS
from mvd_ds.tools.doctor.findings import Finding

FIRST_ANSWER_SECONDS = 20
"""Time limit of a host's first answer."""
CHECK_SECONDS = 240
"""Time limit of all checks of a host; importing torch from a cold network file system takes up to a minute."""
GROUP_SECONDS = 420
"""Time limit of all-reduce over all hosts, their start included."""
GRACE_SECONDS = 10
"""Additional time for an answer to arrive."""
FAN_OUT = 1024
"""Number of hosts that are asked at the same time, as DeepSpeed's: a group forms only when all its hosts have begun."""

#: Remedy by a part of the message with which ssh fails.
SSH_REMEDIES = {
    "Permission denied": "ssh-copy-id {host} (the launcher needs keys, without a password)",
    "Host key verification failed": "ssh {host} true, once, and accept its key",
    "Could not resolve": "write a name into the hostfile that resolves",
    "Name or service not known": "write a name into the hostfile that resolves",
    "Connection refused": "start sshd on {host}",
    "timed out": "is {host} up? take it out of the hostfile until it is",
    "No route to host": "is {host} up? take it out of the hostfile until it is",
    "No such file or directory": "the project and its environment must lie at the same path on every host",
}

#: A name or address, with or without a user in front. A name that begins with a dash would be an option of ssh, and pdsh and
#: DeepSpeed put names into shell commands as they are.
_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_](?:[A-Za-z0-9_.:-]*[A-Za-z0-9_])?")
_LINE = re.compile(r"^(?P<host>\S+)\s+slots=(?P<slots>\d+)\s*$")
_CLOCK_LINE = re.compile(r"mvd_ds:(?P<seconds>\d+\.\d+)\s*(?P<address>\S*)")


class Reply(NamedTuple):
    """The answer of a host: exit code (None: it did not end in time), output, errors, and times in seconds."""

    code: int | None
    output: str
    errors: str
    started: float
    ended: float


def require_host_name(name: str, where: str) -> str:
    """Return ``name`` if it is a host name or address that is safe to hand to ssh and to a shell.

    Args:
        name: a name from a hostfile, an option or a scheduler.
        where: the place that it comes from, for the message.

    Raises:
        ConfigError: for anything else.
    """
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise ConfigError(f"{where}: '{one_line(name, 80)}' is no name or address of a host (letters, digits, '.', '-', '_')")
    return name


def read_hostfile(path: Path) -> dict[str, int]:
    """Return the slots of every host of a hostfile, in its order.

    Raises:
        ConfigError: naming file, line and what it should be.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"--hostfile {path}: cannot be read: {error.strerror}") from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.match(text)
        if found is None or not int(found["slots"]):
            raise ConfigError(f"{path}:{number}: '{one_line(text, 80)}' is not 'HOST slots=DEVICES'")
        require_host_name(found["host"], f"{path}:{number}")
        if found["host"] in hosts:
            raise ConfigError(f"{path}:{number}: host {found['host']} is there twice; give all its slots in one line")
        hosts[found["host"]] = int(found["slots"])
    if not hosts:
        raise ConfigError(f"{path}: names no host; a line is 'HOST slots=DEVICES'")
    return hosts


def ask_all(commands: dict[str, str], seconds: float) -> dict[str, Reply]:
    """Run a command on every host at the same time, and return the answers."""
    with ThreadPoolExecutor(max_workers=min(FAN_OUT, len(commands)) or 1) as pool:
        replies = pool.map(lambda host: ask(host, commands[host], seconds), commands)
        return dict(zip(commands, replies, strict=True))


def ask(host: str, command: str, seconds: float) -> Reply:
    """Run ``command`` on ``host`` through ssh, and end it after ``seconds``."""
    # The remote side has a time limit, too: ending ssh does not end what it started.
    remote = f"timeout -k 5 {seconds:.0f} bash -c {shlex.quote(command)}"
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={FIRST_ANSWER_SECONDS // 2}", "--", host, remote]
    started = time.time()
    try:
        done = subprocess.run(
            ssh, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=seconds + GRACE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        return Reply(None, _text(error.stdout), _text(error.stderr), started, time.time())
    except FileNotFoundError:
        raise ConfigError("doctor --hostfile: ssh is not here; apt-get install openssh-client") from None
    # 124 is the exit code of timeout(1) when it ended the command.
    return Reply(None if done.returncode == 124 else done.returncode, done.stdout, done.stderr, started, time.time())


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def check_ssh(hosts: Iterable[str]) -> dict[str, Finding]:
    """Check that each host answers ssh and that its clock is right; its address is a fact of the finding."""
    replies = ask_all(dict.fromkeys(hosts, "date +mvd_ds:%s.%N; hostname -I"), FIRST_ANSWER_SECONDS)
    return {host: _judge_ssh(host, reply) for host, reply in replies.items()}


def _judge_ssh(host: str, reply: Reply) -> Finding:
    if reply.code != 0:
        return Finding("ssh", "bad", *failure_of(host, reply, FIRST_ANSWER_SECONDS))
    found = _CLOCK_LINE.search(reply.output)
    if found is None:
        return Finding("ssh", "bad", f"answers '{reply.output.strip()[-60:]}' when asked for the time", f"ssh {host} date")
    # The round trip takes time, so the clock is known to half of it.
    half = (reply.ended - reply.started) / 2
    offset = float(found["seconds"]) - (reply.started + half)
    # The launcher, too, takes the first address that the first host names.
    facts = {"address": found["address"] or _address(host)}
    text = f"answers in {2 * half:.1f} s; its clock is {offset:+.1f} s from here, to within {half:.1f} s"
    if abs(offset) - half > SKEW_SECONDS:
        return Finding("ssh", "warn", text, "sudo timedatectl set-ntp true, or mend chrony", facts)
    return Finding("ssh", "ok", text, facts=facts)


def failure_of(host: str, reply: Reply, seconds: float) -> tuple[str, str]:
    """Return why the host gave no answer, and the remedy."""
    if reply.code is None:
        return f"did not answer within {seconds:.0f} s", SSH_REMEDIES["timed out"].format(host=host)
    lines = [line.strip() for line in (reply.errors or reply.output).splitlines() if line.strip()]
    reason = lines[-1].removeprefix("ssh: ")[:200] if lines else f"ended with code {reply.code}"
    remedy = next((text for key, text in SSH_REMEDIES.items() if key in reason), f"ssh {host}, and try it there")
    return reason, remedy.format(host=host)


def doctor_command(arguments: list[str]) -> str:
    """Return ``python -m mvd_ds doctor ARGUMENTS`` as the launcher would start it: same folder, Python and variables."""
    return f"{_environment()} exec {shlex.join([sys.executable, '-m', 'mvd_ds', 'doctor', *arguments])}"


def group_commands(hosts: dict[str, int], address: str, arguments: list[str]) -> dict[str, str]:
    """Return the command with which each host joins a group over all slots, exactly as the launcher's pdsh runs it.

    Args:
        address: address of the first host.
    """
    # Below the ports that systems give to clients (32768 and up).
    port = random.SystemRandom().randrange(20000, 32000)
    world = base64.urlsafe_b64encode(json.dumps({host: list(range(slots)) for host, slots in hosts.items()}).encode()).decode()
    return {
        host: f"{_environment()} exec "
        + shlex.join(
            [
                *(sys.executable, "-u", "-m", "deepspeed.launcher.launch", f"--world_info={world}", f"--node_rank={rank}"),
                *(f"--master_addr={address}", f"--master_port={port}", "--log_level", "critical"),
                *("--module", "mvd_ds", "doctor", *arguments),
            ]
        )
        for rank, host in enumerate(hosts)
    }


def _address(host: str) -> str:
    """Return the name without a user: ``user@host`` is a login, not an address."""
    return host.rpartition("@")[2]


def _environment() -> str:
    """Return shell text that sets folder and variables as the launcher does: PYTHON*, NCCL*, UCX*, MLFLOW*, .deepspeed_env."""
    # A command line is read by every user of a host, so no credential stands on it.
    forwarded = {name: value for name, value in os.environ.items() if name.startswith(("NCCL", "PYTHON", "UCX", "MLFLOW"))}
    # The launcher puts the working directory in front.
    forwarded["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    for folder in (os.path.expanduser("~"), os.getcwd()):
        path = Path(folder) / os.environ.get("DS_ENV_FILE", ".deepspeed_env")
        if path.is_file():
            pairs = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
            forwarded |= {name: value for name, _, value in pairs}
    shown = {name: value for name, value in forwarded.items() if not looks_like_credential(name, value)}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in shown.items())
    return f"cd {shlex.quote(os.getcwd())} && export {exports} &&"
