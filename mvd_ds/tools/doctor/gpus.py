"""Checks of GPUs: whether torch can use them, and what the driver (through NVML) and the kernel say about their health."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

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
"""Age up to which a fatal Xid makes a host sick; after an older one the GPU may have been reset, so it is a warning."""
BUSY_MIB = 2048
"""Memory in use on a GPU that should be free, MiB."""
SLOWDOWNS = {0x08: "hardware slow-down", 0x40: "hardware thermal slow-down", 0x80: "power brake"}
"""Bits of NVML's clocks event reasons that a fault of the hardware or its cooling sets. Source: nvml.h."""

_XID = re.compile(r"^(?:<\d+>)?\[\s*(?P<stamp>[\d.]+)\].*NVRM: Xid \((?P<device>[^)]*)\): (?P<code>\d+)", re.MULTILINE)


class Gpu(NamedTuple):
    """One GPU as the driver describes it."""

    bus: str
    """PCI address."""
    name: str
    """Name of the product."""
    used_mib: int = 0
    """Memory in use, MiB."""
    uncorrected: int = 0
    """Uncorrectable ECC errors since the driver was loaded; 0 without ECC."""
    corrected: int = 0
    """Corrected ECC errors since the driver was loaded; 0 without ECC."""
    pending: bool = False
    """True if a memory row waits for a reset to be remapped."""
    failed: bool = False
    """True if a memory row could not be remapped."""
    slowed: tuple[str, ...] = ()
    """Hardware slow-downs that are active."""


def read_gpus() -> tuple[str, list[Gpu]] | None:
    """Return (driver version, GPUs), or None on a host without NVIDIA's driver.

    Raises:
        pynvml.NVMLError: if the driver is installed and does not answer.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return _text(pynvml.nvmlSystemGetDriverVersion()), [_read_gpu(pynvml, handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(nvml: Any, handle: Any) -> Gpu:
    """Return what NVML says of one GPU; a value that a card or its driver does not know counts as zero."""

    def known(ask: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return ask()
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            return otherwise

    def errors(kind: int) -> int:
        return known(lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_VOLATILE_ECC), 0)

    _, _, row_waits, row_failed = known(lambda: nvml.nvmlDeviceGetRemappedRows(handle), (0, 0, 0, 0))
    page_waits = known(lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle), 0)
    reasons = known(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle), 0)
    return Gpu(
        bus=_text(nvml.nvmlDeviceGetPciInfo(handle).busId),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        used_mib=known(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used, 0) >> 20,
        uncorrected=errors(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        corrected=errors(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        pending=bool(row_waits or page_waits),
        failed=bool(row_failed),
        slowed=tuple(name for bit, name in SLOWDOWNS.items() if reasons & bit),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def read_xids(text: str, now_seconds: float) -> tuple[Counter[tuple[str, int]], list[str]]:
    """Return how often each (device, Xid) stands in kernel messages, and a sentence on each recent fatal one.

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
    """Check that torch sees the GPUs that the driver sees."""
    import torch

    found = read_gpus()
    if found is None:
        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
            return _devices_found(names, "driver unknown: NVML is not installed")
        return Finding("devices", "warn", "no GPU: training runs on the CPU", "on a GPU host: install NVIDIA's driver")
    driver, gpus = found
    if not gpus:
        return Finding("devices", "bad", f"the driver {driver} lists no GPU", "look at dmesg, and reboot the host")
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
    """Check ECC errors, memory rows and hardware slow-downs."""
    found = read_gpus()
    return Finding("ECC", "ok", "no NVIDIA driver here") if found is None else judge_gpus(found[1])


def judge_gpus(gpus: list[Gpu]) -> Finding:
    """Return the finding on ECC counts, memory rows and slow-downs of ``gpus``."""
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
    """Check the kernel's messages for Xid errors."""
    if read_gpus() is None:
        return Finding("Xid", "ok", "no NVIDIA driver here")
    done = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=20)
    if done.returncode:
        return Finding("Xid", "warn", "dmesg cannot be read by this user", "sudo sysctl kernel.dmesg_restrict=0")
    return judge_xids(done.stdout, time.clock_gettime(time.CLOCK_BOOTTIME))


def judge_xids(text: str, now_seconds: float) -> Finding:
    """Return the finding on kernel messages ``text`` at ``now_seconds`` after boot."""
    counts, recent = read_xids(text, now_seconds)
    if recent:
        return Finding("Xid", "bad", "; ".join(recent), "drain the host, nvidia-smi --gpu-reset or reboot; replace if it returns")
    if counts:
        listed = ", ".join(f"{times} x Xid {code} on {device}" for (device, code), times in sorted(counts.items()))
        return Finding("Xid", "warn", f"{listed}: from programs, or more than a day ago", "dmesg | grep Xid")
    return Finding("Xid", "ok", "no Xid error since boot")
