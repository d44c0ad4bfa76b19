"""The doctor's look at GPUs: what ``nvidia-smi`` and ``dmesg`` print is read right, each fault is seen and has a remedy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from mvd_ds.tools.doctor.gpus import (
    check_device_errors,
    check_devices,
    check_kernel_log,
    judge_gpus,
    judge_xids,
    read_gpus,
    read_xids,
)

GPU = """<gpu id="00000000:{bus}:00.0"><product_name>NVIDIA H200</product_name>
 <fb_memory_usage><total>143771 MiB</total><used>{used} MiB</used></fb_memory_usage>
 <ecc_errors><volatile><sram_correctable>0</sram_correctable><sram_uncorrectable_parity>0</sram_uncorrectable_parity>
  <dram_correctable>{corrected}</dram_correctable><dram_uncorrectable>{uncorrected}</dram_uncorrectable></volatile>
  <aggregate><dram_uncorrectable>99</dram_uncorrectable></aggregate></ecc_errors>
 <remapped_rows><remapped_row_pending>{pending}</remapped_row_pending>
  <remapped_row_failure>{failed}</remapped_row_failure></remapped_rows>
 <clocks_event_reasons><clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
  <clocks_event_reason_hw_thermal_slowdown>{hot}</clocks_event_reason_hw_thermal_slowdown></clocks_event_reasons></gpu>"""
WELL = {"used": "4", "corrected": "0", "uncorrected": "0", "pending": "No", "failed": "No", "hot": "Not Active"}


def _smi(*changes: dict[str, str]) -> str:
    gpus = "".join(GPU.format(**{**WELL, "bus": f"3{place}", **change}) for place, change in enumerate(changes))
    return f"<?xml version='1.0'?><nvidia_smi_log><driver_version>570.86.15</driver_version>{gpus}</nvidia_smi_log>"


def test_nvidia_smi_is_read() -> None:
    driver, gpus = read_gpus(_smi({}, {"used": "70123", "corrected": "3"}))
    assert driver == "570.86.15" and [gpu.name for gpu in gpus] == ["NVIDIA H200"] * 2
    assert gpus[1].used_mib == 70123 and gpus[1].total_mib == 143771
    assert [gpu.corrected for gpu in gpus] == [0, 3]
    assert all(gpu.uncorrected == 0 and not gpu.pending and not gpu.failed and not gpu.slowed for gpu in gpus)


def test_a_consumer_card_without_ecc_is_well() -> None:
    text = (
        "<nvidia_smi_log><gpu id='0'><ecc_errors><volatile><dram_uncorrectable>N/A</dram_uncorrectable></volatile></ecc_errors>"
    )
    _, gpus = read_gpus(text + "</gpu></nvidia_smi_log>")
    assert judge_gpus(gpus).state == "ok"


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({}, "ok", "none uncorrectable"),
        ({"corrected": "12"}, "ok", "12 corrected errors"),
        ({"uncorrected": "2"}, "bad", "00000000:31:00.0: 2 uncorrectable"),
        ({"failed": "Yes"}, "bad", "00000000:31:00.0: a memory row could not"),
        ({"pending": "Yes"}, "warn", "00000000:31:00.0: a memory row waits"),
        ({"hot": "Active"}, "warn", "00000000:31:00.0: hw_thermal_slowdown"),
    ],
)
def test_what_the_driver_says_of_a_gpu(change: dict[str, str], state: str, said: str) -> None:
    finding = judge_gpus(read_gpus(_smi({}, change))[1])
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
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, first on the PATH, for ``nvidia-smi`` and ``dmesg`` that print a file."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in ("nvidia-smi", "dmesg"):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat {tmp_path / name}.txt || exit 1\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "nvidia-smi.txt").write_text(_smi({}, {}))
    (tmp_path / "dmesg.txt").write_text("[    1.000000] Linux version 6.1\n")
    return tmp_path


def _see(monkeypatch: pytest.MonkeyPatch, devices: int, cuda: str | None = "13.2") -> None:
    """Let torch see so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.version, "cuda", cuda)


@pytest.mark.parametrize(
    ("seen", "cuda", "used", "state", "said"),
    [
        (2, "13.2", "4", "ok", "2 x NVIDIA H200, driver 570.86.15"),
        (0, "13.2", "4", "bad", "cannot use them with driver 570.86.15"),
        (0, None, "4", "bad", "2 GPUs, but torch is a CPU build"),
        (1, "13.2", "4", "warn", "the driver lists 2 GPUs, torch sees 1"),
        (2, "13.2", "70000", "warn", "memory is in use: 00000000:31:00.0 70000 MiB"),
    ],
)
def test_what_torch_sees_of_the_devices(
    programs: Path, monkeypatch: pytest.MonkeyPatch, seen: int, cuda: str | None, used: str, state: str, said: str
) -> None:
    _see(monkeypatch, seen, cuda)
    (programs / "nvidia-smi.txt").write_text(_smi({}, {"used": used}))
    finding = check_devices()
    assert finding.state == state and said in finding.text
    assert bool(finding.remedy) == (state != "ok")


def test_a_host_without_a_gpu_may_train_slowly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _see(monkeypatch, 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_devices().state == "warn"
    assert check_device_errors().state == check_kernel_log().state == "ok"


def test_a_driver_that_lost_its_devices(programs: Path) -> None:
    (programs / "nvidia-smi.txt").write_text(_smi())
    assert check_devices().state == "bad"


def test_errors_are_asked_of_the_programs(programs: Path) -> None:
    assert check_device_errors().state == "ok" and check_kernel_log().state == "ok"
    (programs / "nvidia-smi.txt").write_text(_smi({"uncorrected": "1"}))
    assert check_device_errors().state == "bad"
    uptime = float(subprocess.run(["cut", "-d ", "-f1", "/proc/uptime"], capture_output=True, text=True, check=True).stdout)
    (programs / "dmesg.txt").write_text(f"[{uptime - 1:12.6f}] NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.\n")
    assert check_kernel_log().state == "bad"
    (programs / "dmesg.txt").unlink()
    finding = check_kernel_log()
    assert finding.state == "warn" and "dmesg_restrict=0" in finding.remedy
