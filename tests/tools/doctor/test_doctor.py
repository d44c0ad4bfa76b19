"""The doctor's checks of one host: what programs print is read right, and each fault is seen and has a remedy."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from mvd_ds.tools.doctor import host as doctor_host
from mvd_ds.tools.doctor import software as doctor_software
from mvd_ds.tools.doctor.compare import GroupSpeed, compare_hosts, judge_group, slow_hosts
from mvd_ds.tools.doctor.findings import Finding, HostReport, from_answer, run_checks, to_answer
from mvd_ds.tools.doctor.group import ring_phases
from mvd_ds.tools.doctor.host import check_folder, check_shared_memory, check_token, write_token
from mvd_ds.tools.doctor.page import print_page
from mvd_ds.tools.doctor.software import READER_PACKAGES, check_matrix_product, check_packages, check_reader


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
    if reader == "torchcodec" and "decodes H.264" not in finding.text:
        # It is an option; where it is installed without FFmpeg's libraries, what is missing is said.
        assert finding.state == "ok" if "not installed" in finding.text else "apt-get install ffmpeg" in finding.remedy
    else:
        assert finding.state == "ok" and "decodes H.264" in finding.text


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
