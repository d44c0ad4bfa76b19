"""GPUs: are they there, can torch use them, what do the driver and the kernel say about their health."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from typing import NamedTuple

from mvd_ds.tools.doctor.findings import Finding

#: Xid errors after which a GPU cannot be trusted before a reset, with the driver's meaning. Others come from programs.
#: Source: NVIDIA, "XID Errors" (GPU deployment and management documentation).
FATAL_XIDS = {
    48: "uncorrectable memory error",
    62: "halt of the internal micro-controller",
    64: "memory row could not be remapped",
    74: "NVLink error",
    79: "fallen off the bus",
    95: "uncontained memory error",
    119: "GPU system processor timed out",
    120: "GPU system processor error",
    140: "unrecovered memory error",
}
RECENT_SECONDS = 24 * 3600
"""A fatal Xid within this time makes a host sick; an older one may have been mended by a reset, and is only told."""
BUSY_MIB = 2048
"""Memory in use on a GPU that should be free."""

_XID = re.compile(r"^(?:<\d+>)?\[\s*(?P<stamp>[\d.]+)\].*NVRM: Xid \((?P<device>[^)]*)\): (?P<code>\d+)", re.MULTILINE)


class Gpu(NamedTuple):
    """One GPU as ``nvidia-smi`` describes it.

    Attributes:
        bus: PCI address.
        used_mib, total_mib: memory.
        uncorrected, corrected: ECC errors since the driver was loaded; 0 where there is no ECC.
        pending, failed: whether a memory row waits for a reset to be remapped, and whether that has failed.
        slowed: hardware slow-downs that are active, such as ``hw_thermal_slowdown``.
    """

    bus: str
    name: str
    used_mib: int
    total_mib: int
    uncorrected: int
    corrected: int
    pending: bool
    failed: bool
    slowed: list[str]


def read_gpus(text: str) -> tuple[str, list[Gpu]]:
    """(driver version, GPUs) of the output of ``nvidia-smi -q -x``. Fields a driver does not know count as zero."""
    root = ElementTree.fromstring(text)
    return root.findtext("driver_version", "unknown"), [_gpu(node) for node in root.findall("gpu")]


def _gpu(node: ElementTree.Element) -> Gpu:
    counts = {child.tag: _whole(child.text) for child in node.iterfind("ecc_errors/volatile/*")}
    # The older name is that of drivers before 535.
    reasons = [*node.iterfind("clocks_event_reasons/*"), *node.iterfind("clocks_throttle_reasons/*")]
    return Gpu(
        bus=node.get("id", "?"),
        name=node.findtext("product_name", "?"),
        used_mib=_whole(node.findtext("fb_memory_usage/used")),
        total_mib=_whole(node.findtext("fb_memory_usage/total")),
        uncorrected=sum(count for tag, count in counts.items() if "uncorrectable" in tag),
        corrected=sum(count for tag, count in counts.items() if "uncorrectable" not in tag and "correctable" in tag),
        pending=_yes(node, "remapped_rows/remapped_row_pending") or _yes(node, "retired_pages/pending_retirement"),
        failed=_yes(node, "remapped_rows/remapped_row_failure"),
        slowed=[
            child.tag.partition("_reason_")[2]
            for child in reasons
            if "_hw_" in child.tag and (child.text or "").strip() == "Active"
        ],
    )


def _whole(text: str | None) -> int:
    found = re.match(r"\s*(\d+)", text or "")
    return int(found.group(1)) if found else 0


def _yes(node: ElementTree.Element, path: str) -> bool:
    return node.findtext(path, "").strip() == "Yes"


def read_xids(text: str, now_seconds: float) -> tuple[Counter[tuple[str, int]], list[str]]:
    """(how often each (device, Xid) stands in kernel messages, sentences on the recent fatal ones).

    Args:
        text: output of ``dmesg``.
        now_seconds: seconds since boot.
    """
    found = list(_XID.finditer(text))
    counts = Counter((match["device"], int(match["code"])) for match in found)
    recent = [
        f"Xid {match['code']} on {match['device']} ({FATAL_XIDS[int(match['code'])]})"
        for match in found
        if int(match["code"]) in FATAL_XIDS and now_seconds - float(match["stamp"]) < RECENT_SECONDS
    ]
    return counts, list(dict.fromkeys(recent))


def check_devices() -> Finding:
    """Whether torch sees the GPUs that the driver sees."""
    import torch

    if shutil.which("nvidia-smi") is None:
        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
            return _devices_found(names, "driver unknown: nvidia-smi is not on the PATH")
        return Finding("devices", "warn", "no GPU: training runs on the CPU", "on a GPU host: install NVIDIA's driver")
    driver, gpus = read_gpus(_output(["nvidia-smi", "-q", "-x"]))
    if not gpus:
        return Finding("devices", "bad", f"nvidia-smi (driver {driver}) lists no GPU", "look at dmesg, and reboot the host")
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return Finding("devices", "bad", f"{len(gpus)} GPUs, but torch is a CPU build", "pip install --force-reinstall torch")
        text = f"{len(gpus)} GPUs, but torch {torch.__version__} cannot use them with driver {driver}"
        return Finding("devices", "bad", text, f"install a driver for CUDA {torch.version.cuda}")
    if torch.cuda.device_count() != len(gpus):
        text = f"the driver lists {len(gpus)} GPUs, torch sees {torch.cuda.device_count()}"
        return Finding("devices", "warn", text, "unset CUDA_VISIBLE_DEVICES, or ignore this if it is meant")
    busy = [f"{gpu.bus} {gpu.used_mib} MiB" for gpu in gpus if gpu.used_mib > BUSY_MIB]
    if busy:
        text = f"{len(gpus)} x {gpus[0].name}, but memory is in use: {', '.join(busy)}"
        return Finding("devices", "warn", text, "nvidia-smi names the processes; end them before a run")
    return _devices_found([gpu.name for gpu in gpus], f"driver {driver}")


def _devices_found(names: list[str], driver: str) -> Finding:
    kinds = ", ".join(f"{number} x {name}" for name, number in Counter(names).items())
    return Finding("devices", "ok", f"{kinds}, {driver}", facts={"devices": kinds})


def check_device_errors() -> Finding:
    """ECC errors, memory rows and hardware slow-downs."""
    name = "ECC"
    if shutil.which("nvidia-smi") is None:
        return Finding(name, "ok", "no NVIDIA driver here")
    _, gpus = read_gpus(_output(["nvidia-smi", "-q", "-x"]))
    return judge_gpus(gpus)


def judge_gpus(gpus: list[Gpu]) -> Finding:
    """The finding on ECC counts, rows and slow-downs of ``gpus``."""
    broken = [f"{gpu.bus}: {gpu.uncorrected} uncorrectable errors" for gpu in gpus if gpu.uncorrected]
    broken += [f"{gpu.bus}: a memory row could not be remapped" for gpu in gpus if gpu.failed]
    if broken:
        return Finding("ECC", "bad", "; ".join(broken), "nvidia-smi --gpu-reset (as root, idle); replace it if they come back")
    doubtful = [f"{gpu.bus}: a memory row waits for a reset" for gpu in gpus if gpu.pending]
    doubtful += [f"{gpu.bus}: {', '.join(gpu.slowed)}" for gpu in gpus if gpu.slowed]
    if doubtful:
        return Finding("ECC", "warn", "; ".join(doubtful), "nvidia-smi --gpu-reset at the next pause; look at the cooling")
    return Finding("ECC", "ok", f"{sum(gpu.corrected for gpu in gpus)} corrected errors, none uncorrectable")


def check_kernel_log() -> Finding:
    """Xid errors in the kernel's messages."""
    if shutil.which("nvidia-smi") is None:
        return Finding("Xid", "ok", "no NVIDIA driver here")
    done = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=20)
    if done.returncode:
        return Finding("Xid", "warn", "dmesg cannot be read by this user", "sudo sysctl kernel.dmesg_restrict=0")
    return judge_xids(done.stdout, time.clock_gettime(time.CLOCK_BOOTTIME))


def judge_xids(text: str, now_seconds: float) -> Finding:
    """The finding on kernel messages ``text`` at ``now_seconds`` after boot."""
    counts, recent = read_xids(text, now_seconds)
    if recent:
        return Finding("Xid", "bad", "; ".join(recent), "drain the host, nvidia-smi --gpu-reset or reboot; replace if it returns")
    if counts:
        listed = ", ".join(f"{times} x Xid {code} on {device}" for (device, code), times in sorted(counts.items()))
        return Finding("Xid", "warn", f"{listed}: from programs, or more than a day ago", "dmesg | grep Xid")
    return Finding("Xid", "ok", "no Xid error since boot")


def _output(command: list[str]) -> str:
    """What ``command`` prints.

    Raises:
        RuntimeError: with its message, if it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip() or f"{command[0]} ended with code {done.returncode}")
    return done.stdout
