"""Hosts with their own addresses on one machine: namespaces for network, processes, mounts and name, and a switch between them.

Addresses exist inside these namespaces only. A cable can be pulled, and a host can lose its power.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from cluster.debian import Unavailable

NETWORK = "10.99.0"
#: Ends with this process, and with it everything in its process namespace.
HOLD = ["setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child=KILL"]


class Switch:
    """A bridge in a network namespace of its own."""

    def __init__(self) -> None:
        self.holder = _hold(["--net"])
        self.pid = _child(self.holder)
        self.inside(["ip", "link", "add", "switch", "type", "bridge"])
        self.inside(["ip", "link", "set", "switch", "up"])

    def inside(self, command: Sequence[str]) -> None:
        _checked(["nsenter", "-t", str(self.pid), "-n", "--", *command])

    def connect(self, number: int, pid: int) -> None:
        """A cable from port ``number`` to eth0 in the network namespace of ``pid``."""
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(pid)]
        self.inside(["ip", "link", "add", f"port{number}", *peer])
        self.inside(["ip", "link", "set", f"port{number}", "master", "switch", "up"])

    def plug(self, number: int, state: str) -> None:
        """Pull (down) or plug in (up) the cable of port ``number``: packets are lost, no connection is told."""
        self.inside(["ip", "link", "set", f"port{number}", state])

    def close(self) -> None:
        _end(self.holder)


class Machine:
    """One host: ``name`` at 10.99.0.``number``, with sshd running and every file of this machine.

    Args:
        files: folder with unpacked packages; its usr/ lies over /usr.
        etc: folder whose files lie over /etc, shared by all hosts.
    """

    def __init__(self, name: str, number: int, switch: Switch, files: Path, etc: Path) -> None:
        self.name, self.number, self.switch, self.files, self.etc = name, number, switch, files, etc
        self.boot()

    def boot(self) -> None:
        """Switch it on."""
        self.holder = _hold(["--net", "--mount", "--uts", "--pid", "--mount-proc"])
        self.pid = _child(self.holder)
        self.switch.connect(self.number, self.pid)
        self.run(
            f"""
            mount -t overlay overlay -o lowerdir={self.files}/usr:/usr /usr
            mount -t overlay overlay -o lowerdir={self.etc}:/etc /etc
            mount -t tmpfs tmpfs /run
            mkdir -p /run/sshd /run/munge
            hostname {self.name}
            ip link set lo up
            ip addr add {NETWORK}.{self.number}/24 dev eth0
            ip link set eth0 up
            /usr/sbin/sshd
            """
        )

    def command(self, command: Sequence[str], folder: Path) -> list[str]:
        """A command of this machine that runs ``command`` inside, in ``folder``."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", "-p", f"--wd={folder}", "--", *command]

    def run(self, script: str) -> str:
        """Output of a shell script inside."""
        return _checked(self.command(["sh", "-ec", script], Path("/")))

    def cut_power(self) -> None:
        """Every process is gone at once, and no packet says so."""
        self.switch.plug(self.number, "down")
        _end(self.holder)

    def close(self) -> None:
        _end(self.holder)


def write_etc(folder: Path, files: Path, names: Sequence[str]) -> Path:
    """/etc for hosts ``names`` (numbered from 1) that trust each other's ssh."""
    ssh = folder / "ssh"
    ssh.mkdir(parents=True)
    # sshd wants a user of this name for its unprivileged half.
    for name, line in (("passwd", "sshd:x:64999:65534::/run/sshd:/usr/sbin/nologin\n"), ("group", "")):
        (folder / name).write_text(Path("/etc", name).read_text() + line)
    lines = [f"{NETWORK}.{number} {name}\n" for number, name in enumerate(names, 1)]
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
    for key in ("host_key", "client_key"):
        _checked([str(files / "usr/bin/ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / key)])
    shutil.copy(ssh / "client_key.pub", ssh / "authorized_keys")
    (ssh / "ssh_config").write_text(
        "Host *\n IdentityFile /etc/ssh/client_key\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n"
    )
    (ssh / "sshd_config").write_text(
        "HostKey /etc/ssh/host_key\nAuthorizedKeysFile /etc/ssh/authorized_keys\nPermitRootLogin yes\nUsePAM no\nStrictModes no\n"
    )
    return folder


def _hold(namespaces: list[str]) -> subprocess.Popen[bytes]:
    """A process that keeps new namespaces alive."""
    try:
        return subprocess.Popen([*HOLD, *namespaces, "sleep", "infinity"], stderr=subprocess.PIPE)
    except OSError as error:
        raise Unavailable(f"unshare: {error}") from None


def _child(holder: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and holder.poll() is None:
        children = psutil.Process(holder.pid).children()
        if children and children[0].name() == "sleep":
            return children[0].pid
        time.sleep(0.02)
    raise Unavailable(f"unshare: {holder.stderr.read().decode().strip() if holder.stderr else 'no namespaces'}")


def _end(holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    holder.wait()


def _checked(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"LC_ALL": "C"})
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:12])}: {done.stderr.strip()}")
    return done.stdout
