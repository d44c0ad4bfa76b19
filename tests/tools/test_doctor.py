"""The doctor's checks of one host: what programs print is read right, and each fault is seen and has a remedy."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from mvd_ds.tools import doctor_host, doctor_software
from mvd_ds.tools.doctor_compare import GroupSpeed, compare_hosts, judge_group, slow_hosts
from mvd_ds.tools.doctor_devices import judge_gpus, judge_xids, read_gpus, read_xids
from mvd_ds.tools.doctor_findings import Finding, HostReport, from_answer, run_checks, to_answer
from mvd_ds.tools.doctor_host import check_folder, check_shared_memory, check_token, write_token
from mvd_ds.tools.doctor_matrix import check_matrix_product
from mvd_ds.tools.doctor_page import print_page
from mvd_ds.tools.doctor_software import READER_PACKAGES, check_packages, check_reader
from mvd_ds.tools.doctor_speed import ring_phases

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


def test_packages_missing_and_outside_their_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "requirements.txt"
    monkeypatch.setattr(doctor_software, "REQUIREMENTS", listed)
    listed.write_text("# why\nnumpy>=2.0,<3  # here\n\npydantic>=99  # newer than there is\n")
    finding = check_packages()
    version = importlib.metadata.version("pydantic")
    assert finding.state == "warn" and f"pydantic {version} (tested: >=99)" in finding.text and "numpy" not in finding.text
    listed.write_text("no-such-package-of-ours==1\n")
    finding = check_packages()
    assert finding.state == "bad" and "no-such-package-of-ours==1" in finding.text and finding.remedy


def test_this_environment_is_the_one_of_requirements() -> None:
    assert check_packages().state != "bad"


@pytest.mark.parametrize("reader", READER_PACKAGES)
def test_readers_decode_what_was_written(reader: str) -> None:
    finding = check_reader(reader)
    assert finding.state == "ok"
    assert "decodes H.264" in finding.text or (reader == "torchcodec" and "not installed" in finding.text)


def test_a_reader_that_shows_another_picture_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    right = doctor_software._read
    monkeypatch.setattr(doctor_software, "_read", lambda *arguments: right(*arguments)[::-1])
    assert check_reader("pyav").state == "bad"


def test_a_small_shared_memory_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = doctor_host.shutil.disk_usage(tmp_path)
    for free, state in ((64 << 20, "bad"), (1 << 30, "warn"), (8 << 30, "ok")):
        monkeypatch.setattr(doctor_host.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        finding = check_shared_memory(tmp_path)
        assert finding.state == state and ("--shm-size" in finding.remedy) == (state != "ok")


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = check_folder(tmp_path)
    assert "MB/s written and synced" in finding.text and finding.facts["write_mb_per_second"] > 0
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    assert "does not exist yet" in check_folder(tmp_path / "runs" / "new").text
    usage = doctor_host.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor_host.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert check_folder(tmp_path).state == "bad"


def test_a_shared_folder_holds_the_token_of_another_host(tmp_path: Path) -> None:
    path = write_token(tmp_path, "abc")
    assert path is not None and check_token(tmp_path, "abc", "node1").state == "ok"
    path.unlink()
    finding = check_token(tmp_path, "abc", "node1", wait_seconds=0.1)
    assert finding.state == "bad" and "node1" in finding.text and str(tmp_path) in finding.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_for_data(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert "read-only" in check_folder(tmp_path).text and check_token(tmp_path, "abc", "node1").state == "ok"


def test_a_check_that_breaks_is_a_finding() -> None:
    def broken() -> Finding:
        raise RuntimeError("no such thing\nsecond line")

    finding = run_checks({"mine": broken})[0]
    assert (finding.name, finding.state) == ("mine", "bad") and finding.text.endswith("RuntimeError: no such thing")


def test_answers_are_found_among_greetings() -> None:
    assert from_answer(f"Welcome!\n{to_answer([1])}\n{to_answer([2])}\nbye") == [2]
    assert from_answer("Welcome!") is None


def test_the_matrix_product_is_measured() -> None:
    finding = check_matrix_product()
    assert float(finding.facts["tflops"]) > 1e-4 and "TFLOP/s" in finding.text


@pytest.mark.parametrize("hosts", [3, 4, 5, 8])
def test_neighbours_take_turns(hosts: int) -> None:
    phases = ring_phases(hosts)
    assert sorted(edge for phase in phases for edge in phase) == sorted((host, (host + 1) % hosts) for host in range(hosts))
    for phase in phases:
        asked = [host for edge in phase for host in edge]
        assert len(asked) == len(set(asked))
    assert ring_phases(2) == []


def _report(host: str, tflops: float, torch: str = "2.15.0") -> HostReport:
    packages = Finding("packages", "ok", "all there", facts={"torch": torch})
    return HostReport(host, [packages, Finding("matrix product", "ok", "measured", facts={"tflops": tflops})])


def test_a_slow_host_is_named_and_not_sick() -> None:
    assert slow_hosts({"a": 700.0, "b": 710.0, "c": 400.0}) == pytest.approx({"c": 1.75})
    assert slow_hosts({"a": 700.0, "c": 400.0}) == {}
    reports = {report.host: report for report in compare_hosts([_report("a", 700.0), _report("b", 710.0), _report("c", 400.0)])}
    assert [finding.state for finding in reports["c"].findings] == ["ok", "ok", "warn"] and reports["c"].healthy
    assert len(reports["a"].findings) == 2


def test_a_host_with_another_torch_is_sick() -> None:
    reports = compare_hosts([_report("a", 1.0), _report("b", 1.0), _report("c", 1.0, torch="2.11.0")])
    assert [report.healthy for report in reports] == [True, True, False]
    assert reports[2].reasons == ["same packages: other versions than most hosts: torch 2.11.0 (most: 2.15.0)"]


def test_the_slow_link_of_three_hosts_is_named() -> None:
    hosts = ["a", "b", "c", "d"]
    speed = GroupSpeed(whole=9e9, inside=[4e11] * 4, between=[4e10, 4e10, 4e10, 9e9], clocks=[0, 0.1, -3.0, 0], processes=32)
    group, by_host = judge_group(speed, hosts)
    assert group[0].state == "warn" and "9 GB/s bus bandwidth over 32 processes" in group[0].text and "slow: d" in group[0].text
    assert [finding.name for finding in by_host["d"] if finding.state == "warn"] == ["slow all-reduce"]
    assert [finding.name for finding in by_host["c"] if finding.state == "warn"] == ["clock"]


def test_the_page_says_each_thing_once(capsys: pytest.CaptureFixture[str]) -> None:
    sick = Finding("ECC", "bad", "00:31: 2 uncorrectable errors", "reset it")
    reports = [HostReport(f"node{n}", [Finding("limits", "ok", "plenty")]) for n in range(20)]
    reports.append(HostReport("node20", [Finding("limits", "ok", "plenty"), sick]))
    print_page(reports, [Finding("all-reduce", "ok", "9 GB/s")])
    page = capsys.readouterr().out
    assert page.count("plenty") == 1 and "node20: 00:31" in page and "ECC on node20: reset it" in page
    assert "20 of 21 hosts healthy" in page and "node20: ECC: 00:31: 2 uncorrectable errors" in page
