"""Checks of a host's limits, shared memory, folders, clock and network."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path

from mvd_ds.tools.doctor.findings import Finding

OPEN_FILES = 4096
"""Number of open files that is enough: loader workers pass tensors through file descriptors; 8 a process use up 1024."""
SHARED_MEMORY_BYTES = 2 << 30
"""Free bytes of /dev/shm that are enough: 4 workers x 2 batches x 8 clips x 2.4 MB x 8 processes are 1.2 GB."""
PROBE_BYTES = 64 << 20
"""Bytes that are written to measure a folder."""
FREE_BYTES = 20 << 30
"""Free bytes that are enough for a run: two checkpoints of a ViT-H are 17 GB."""
TOKEN_WAIT_SECONDS = 10.0
"""Time for a new file to be seen on a network file system, whose caches live a few seconds."""


def check_limits() -> Finding:
    """Check the limit of open files, and that of locked memory where InfiniBand needs it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    text = f"{_limit(soft)} open files (at most {_limit(hard)}), {_limit(locked)} bytes of locked memory"
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        return Finding("limits", "warn", text, "ulimit -n 65536 before the launch; for all: /etc/security/limits.conf")
    if locked != resource.RLIM_INFINITY and Path("/sys/class/infiniband").exists():
        remedy = "memlock unlimited in /etc/security/limits.conf: InfiniBand registers memory"
        return Finding("limits", "warn", text, remedy)
    return Finding("limits", "ok", text)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Check the shared memory in which loader workers hand over batches."""
    name = "/dev/shm"
    if not folder.is_dir():
        return Finding(name, "bad", "is not there: loader workers cannot hand over batches", f"mount -t tmpfs tmpfs {folder}")
    free = shutil.disk_usage(folder).free
    text = f"{_gib(free)} free"
    remedy = f"mount -o remount,size=16G {folder}; in a container: --shm-size=16g"
    if free < 128 << 20:
        return Finding(name, "bad", f"{text}: loader workers die with a bus error", remedy)
    return Finding(name, "warn" if free < SHARED_MEMORY_BYTES else "ok", text, remedy if free < SHARED_MEMORY_BYTES else "")


def check_folder(folder: Path) -> Finding:
    """Check the free space and the write speed of a folder for runs; a folder of data may be read-only."""
    name = f"folder {folder}"
    place = _existing(folder)
    free = shutil.disk_usage(place).free
    note = "" if place == folder else f"does not exist yet, {place} was measured: "
    if not os.access(place, os.W_OK):
        if place != folder:
            return Finding(name, "bad", f"does not exist, and {place} cannot be written", f"mkdir -p {folder}, or mount it")
        return Finding(name, "ok", f"{_gib(free)} free; read-only: good for data, a run cannot be written here")
    if free < PROBE_BYTES * 2:
        return Finding(name, "bad", f"{note}{_gib(free)} free", "free some space")
    rate, sync_ms = _write_speed(place)
    text = f"{note}{_gib(free)} free, {rate / 1e6:.0f} MB/s written and synced, {sync_ms:.1f} ms a small sync"
    facts = {"write_mb_per_second": rate / 1e6}
    if free < FREE_BYTES:
        return Finding(name, "warn", text, "free some space: a checkpoint of ViT-H takes 8.6 GB", facts)
    return Finding(name, "ok", text, facts=facts)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _write_speed(folder: Path) -> tuple[float, float]:
    """Return the bytes/s of writing and syncing a file, and the milliseconds of a small sync."""
    path = folder / f".mvd_ds-{uuid.uuid4().hex}"
    block = os.urandom(1 << 20)
    try:
        with open(path, "wb", buffering=0) as file:
            started = time.monotonic()
            for _ in range(PROBE_BYTES // len(block)):
                file.write(block)
            os.fsync(file.fileno())
            seconds = time.monotonic() - started
            started = time.monotonic()
            for _ in range(8):
                file.write(b"x")
                os.fsync(file.fileno())
            small = time.monotonic() - started
    finally:
        path.unlink(missing_ok=True)
    return PROBE_BYTES / seconds, 1000 * small / 8


def write_token(folder: Path, token: str) -> Path | None:
    """Write a file that other hosts look for in ``folder``; None if it cannot be written. The caller removes it."""
    path = token_path(folder, token)
    try:
        path.write_text(token, encoding="ascii")
    except OSError:
        return None
    return path


def token_path(folder: Path, token: str) -> Path:
    """Return the path of the token of ``folder``."""
    return _existing(folder) / f".mvd_ds-token-{token}"


def check_token(folder: Path, token: str, writer: str, wait_seconds: float = TOKEN_WAIT_SECONDS) -> Finding:
    """Check that ``folder`` is the one in which host ``writer`` has left ``token``."""
    name = f"shared {folder}"
    path = token_path(folder, token)
    end = time.monotonic() + wait_seconds
    while True:
        try:
            if path.read_text(encoding="ascii") == token:
                return Finding(name, "ok", f"reads what {writer} writes")
        except OSError:
            pass
        if not os.access(path.parent, os.W_OK):
            return Finding(name, "ok", "read-only here: not compared")
        if time.monotonic() >= end:
            remedy = f"mount the same file system at {folder} on every host"
            return Finding(name, "bad", f"is not the folder that {writer} has under this name", remedy)
        os.listdir(path.parent)  # makes a network file system look again
        time.sleep(0.2)


def check_clock() -> Finding:
    """Check that the clock is synchronised."""
    if shutil.which("timedatectl") is None:
        return Finding("clock", "ok", "who sets it is not known (no timedatectl); between hosts it is compared")
    done = subprocess.run(["timedatectl", "show", "-p", "NTPSynchronized", "--value"], capture_output=True, text=True, timeout=20)
    if done.returncode or done.stdout.strip() == "yes":
        return Finding("clock", "ok", "synchronised" if done.returncode == 0 else "who sets it is not known")
    return Finding("clock", "warn", "is not synchronised", "sudo timedatectl set-ntp true")


def check_network(infiniband: Path = Path("/sys/class/infiniband")) -> Finding:
    """Check the address that this host's name resolves to, and its InfiniBand or RoCE ports."""
    name, host = "network", socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        remedy = f"add {host} to /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        return Finding(name, "warn", f"the host's own name {host} stands for no address", remedy)
    ports = {
        f"{path.parent.parent.parent.name}:{path.parent.name}": path.read_text() for path in infiniband.glob("*/ports/*/state")
    }
    down = sorted(port for port, state in ports.items() if "ACTIVE" not in state)
    text = f"{host} is {address}; {len(ports) - len(down)} of {len(ports)} InfiniBand ports active"
    if down:
        return Finding(name, "warn", f"{text}; down: {', '.join(down)}", "ibstat; look at cables and the subnet manager")
    return Finding(name, "ok", text, facts={"address": address})


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
