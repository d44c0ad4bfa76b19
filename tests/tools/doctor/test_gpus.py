"""The doctor's checks of GPUs: NVML and ``dmesg`` are read right, and each fault is seen and has a remedy."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from mvd_ds.tools.doctor.findings import run_checks
from mvd_ds.tools.doctor.gpus import (
    SLOWDOWNS,
    check_device_errors,
    check_devices,
    check_kernel_log,
    judge_xids,
    read_gpus,
    read_xids,
)

WELL = {"used": 4, "corrected": 0, "uncorrected": 0, "pending": 0, "failed": 0, "reasons": 0x1}
MIB = 1 << 20


class FakeNvml(types.ModuleType):
    """The part of ``pynvml`` that the doctor asks, with cards of the test; a value None is one that the card does not know."""

    class NVMLError(Exception):
        """As pynvml's."""

    class NVMLError_LibraryNotFound(NVMLError):
        """As pynvml's."""

    class NVMLError_NotSupported(NVMLError):
        """As pynvml's."""

    class NVMLError_FunctionNotFound(NVMLError):
        """As pynvml's."""

    NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 0, 1, 0

    def __init__(self, cards: list[dict[str, Any]] | None) -> None:
        super().__init__("pynvml")
        self.cards, self.open = cards, 0

    def nvmlInit(self) -> None:
        if self.cards is None:
            raise self.NVMLError_LibraryNotFound
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        assert self.cards is not None and self.open == 1
        return len(self.cards)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86.15"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        assert self.cards is not None
        return WELL | self.cards[index] | {"bus": f"00000000:3{index}:00.0"}

    def nvmlDeviceGetPciInfo(self, card: dict[str, Any]) -> types.SimpleNamespace:
        return types.SimpleNamespace(busId=card["bus"])

    def nvmlDeviceGetName(self, card: dict[str, Any]) -> str:
        return "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, card: dict[str, Any]) -> types.SimpleNamespace:
        return types.SimpleNamespace(used=card["used"] * MIB)

    def nvmlDeviceGetTotalEccErrors(self, card: dict[str, Any], kind: int, counter: int) -> int:
        assert counter == self.NVML_VOLATILE_ECC
        return self._known(card["uncorrected" if kind == self.NVML_MEMORY_ERROR_TYPE_UNCORRECTED else "corrected"])

    def nvmlDeviceGetRemappedRows(self, card: dict[str, Any]) -> tuple[int, int, int, int]:
        return 0, 0, self._known(card["pending"]), self._known(card["failed"])

    def nvmlDeviceGetRetiredPagesPendingStatus(self, card: dict[str, Any]) -> int:
        raise self.NVMLError_NotSupported

    def nvmlDeviceGetCurrentClocksEventReasons(self, card: dict[str, Any]) -> int:
        if card["reasons"] is None:
            raise self.NVMLError_FunctionNotFound
        return card["reasons"]

    def _known(self, value: int | None) -> int:
        if value is None:
            raise self.NVMLError_NotSupported
        return value


def _driver(monkeypatch: pytest.MonkeyPatch, *cards: dict[str, Any]) -> FakeNvml:
    """Let this host have NVIDIA's driver and ``cards``, which differ from healthy ones by the values given."""
    fake = FakeNvml(list(cards))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_the_driver_is_asked_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _driver(monkeypatch, {}, {"used": 70123, "corrected": 3})
    found = read_gpus()
    assert found is not None and fake.open == 0
    driver, gpus = found
    assert driver == "570.86.15" and [gpu.name for gpu in gpus] == ["NVIDIA H200"] * 2
    assert gpus[1].used_mib == 70123 and [gpu.corrected for gpu in gpus] == [0, 3]
    assert all(gpu.uncorrected == 0 and not gpu.pending and not gpu.failed and not gpu.slowed for gpu in gpus)


def test_the_fake_has_the_names_of_the_real_module() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = {name for name in vars(FakeNvml) if name.upper().startswith("NVML")}
    assert len(names) > 12 and all(hasattr(pynvml, name) for name in names)
    assert FakeNvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED == pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    assert FakeNvml.NVML_VOLATILE_ECC == pynvml.NVML_VOLATILE_ECC
    named = (pynvml.nvmlClocksEventReasonHwSlowdown, pynvml.nvmlClocksEventReasonHwThermalSlowdown)
    assert {*named, pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown} == set(SLOWDOWNS)


def test_a_consumer_card_without_ecc_is_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = dict.fromkeys(("uncorrected", "corrected", "pending", "failed", "reasons"))
    _driver(monkeypatch, unknown)
    assert check_device_errors().state == "ok"


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({}, "ok", "none uncorrectable"),
        ({"corrected": 12}, "ok", "12 corrected errors"),
        ({"uncorrected": 2}, "bad", "00000000:31:00.0: 2 uncorrectable"),
        ({"failed": 1}, "bad", "00000000:31:00.0: a memory row could not"),
        ({"pending": 1}, "warn", "00000000:31:00.0: a memory row waits"),
        ({"reasons": 0x41}, "warn", "00000000:31:00.0: hardware thermal slow-down"),
    ],
)
def test_a_fault_of_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch, change: dict[str, int], state: str, said: str) -> None:
    _driver(monkeypatch, {}, change)
    finding = check_device_errors()
    assert finding.state == state and said in finding.text
    assert bool(finding.remedy) == (state != "ok")


DMESG = """[   12.345678] NVRM: loading NVIDIA UNIX x86_64 Kernel Module  570.86.15
[ 1000.000001] NVRM: Xid (PCI:0000:3b:00): 31, pid=4321, name=python, Ch 00000008
[ 1000.000002] NVRM: Xid (PCI:0000:3b:00): 31, pid=4322, name=python, Ch 00000009
[90000.000000] NVRM: Xid (PCI:0000:86:00): 79, pid='<unknown>', GPU has fallen off the bus.
"""


def test_kernel_messages_are_counted() -> None:
    counts, recent = read_xids(DMESG, now_seconds=90100)
    assert counts == {("PCI:0000:3b:00", 31): 2, ("PCI:0000:86:00", 79): 1}
    assert recent == ["Xid 79 on PCI:0000:86:00 (fallen off the bus)"]


def test_a_lost_gpu_makes_a_host_sick_for_a_day() -> None:
    assert judge_xids(DMESG, 90100).state == "bad"
    old = judge_xids(DMESG, 90000 + 25 * 3600)
    assert old.state == "warn" and "2 x Xid 31 on PCI:0000:3b:00" in old.text
    assert judge_xids(DMESG.splitlines()[0], 100).state == "ok"


@pytest.fixture
def kernel_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a program ``dmesg``, first on the PATH, prints."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    log = tmp_path / "dmesg.txt"
    (tmp_path / "dmesg").write_text(f"#!/bin/sh\ncat {log} || exit 1\n")
    (tmp_path / "dmesg").chmod(0o755)
    log.write_text("[    1.000000] Linux version 6.1\n")
    return log


def _see(monkeypatch: pytest.MonkeyPatch, devices: int, cuda: str | None = "13.2") -> None:
    """Let torch see so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.version, "cuda", cuda)


@pytest.mark.parametrize(
    ("seen", "cuda", "used", "state", "said"),
    [
        (2, "13.2", 4, "ok", "2 x NVIDIA H200, driver 570.86.15"),
        (0, "13.2", 4, "bad", "cannot use them with driver 570.86.15"),
        (0, None, 4, "bad", "2 GPUs, but torch is a CPU build"),
        (1, "13.2", 4, "warn", "the driver lists 2 GPUs, torch sees 1"),
        (2, "13.2", 70000, "warn", "memory is in use: 00000000:31:00.0 70000 MiB"),
    ],
)
def test_torch_and_the_driver_are_compared(
    monkeypatch: pytest.MonkeyPatch, seen: int, cuda: str | None, used: int, state: str, said: str
) -> None:
    _see(monkeypatch, seen, cuda)
    _driver(monkeypatch, {}, {"used": used})
    finding = check_devices()
    assert finding.state == state and said in finding.text
    assert bool(finding.remedy) == (state != "ok")


def test_a_host_without_a_gpu_may_train_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    _see(monkeypatch, 0)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(None))
    assert check_devices().state == "warn"
    assert check_device_errors().state == check_kernel_log().state == "ok"


def test_a_driver_that_lost_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(monkeypatch)
    assert check_devices().state == "bad"


def test_a_driver_that_does_not_answer_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _driver(monkeypatch, {})

    def fail() -> None:
        raise fake.NVMLError("driver not loaded")

    monkeypatch.setattr(fake, "nvmlInit", fail)
    (finding,) = run_checks({"ECC": check_device_errors})
    assert finding.state == "bad" and "driver not loaded" in finding.text


def test_the_kernel_log_is_read(kernel_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(monkeypatch, {})
    assert check_kernel_log().state == "ok"
    uptime = float(subprocess.run(["cut", "-d ", "-f1", "/proc/uptime"], capture_output=True, text=True, check=True).stdout)
    kernel_log.write_text(f"[{uptime - 1:12.6f}] NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.\n")
    assert check_kernel_log().state == "bad"
    kernel_log.unlink()
    finding = check_kernel_log()
    assert finding.state == "warn" and "dmesg_restrict=0" in finding.remedy
