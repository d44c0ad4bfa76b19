"""The doctor over several hosts: a ``ssh`` on the PATH that plays them, and one real group of two processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from launching import alone
from mvd_ds.config import ConfigError
from mvd_ds.tools.doctor import ssh as doctor_hosts
from mvd_ds.tools.doctor.doctor import doctor
from mvd_ds.tools.doctor.findings import ANSWER
from mvd_ds.tools.doctor.ssh import Reply, check_ssh, failure_of, group_commands, read_hostfile

#: Plays hosts by name: real ones run the command here, the others fail as hosts do.
SSH = f"""#!{sys.executable}
import os, sys, time
host, command = sys.argv[-2:]
asked_for = "hello" if "mvd_ds:" in command else "group" if "--answer group" in command else "host"
if host == "down":
    time.sleep(60)
if host == "locked":
    print("locked: Permission denied (publickey,password).", file=sys.stderr)
    sys.exit(255)
if asked_for == "hello":
    ahead = 90 if host == "early" else 0
    print(f"mvd_ds:{{time.time() + ahead:.9f}}\\n127.0.0.1")
    sys.exit(0)
if host.startswith("real"):
    os.execvp("bash", ["bash", "-c", command])
if asked_for == "group":
    print('{ANSWER}{{"whole": 5e9, "inside": [0, 0], "between": [0, 0], "clocks": [0, 0], "processes": 2}}')
    sys.exit(0)
if host == "moved":
    print("bash: line 1: cd: /shared/mvd_ds: No such file or directory", file=sys.stderr)
    sys.exit(1)
state, text = ("bad", "2 uncorrectable errors") if host == "sick" else ("ok", "none uncorrectable")
print("Welcome to " + host)
print('{ANSWER}[{{"name": "ECC", "state": "%s", "text": "%s", "remedy": "", "facts": {{}}}}]' % (state, text))
"""


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the playing ssh, first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def _hostfile(folder: Path, *hosts: str) -> Path:
    path = folder / "hosts"
    path.write_text("# ours\n" + "".join(f"{host} slots=1\n" for host in hosts))
    return path


def test_hostfile(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("\n# all\na slots=8  # first\nb  slots=4\n")
    assert read_hostfile(path) == {"a": 8, "b": 4}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n", r"hosts:1: 'a' is not 'HOST slots=DEVICES'"),
        ("a slots=0\n", r"hosts:1: 'a slots=0' is not"),
        ("a slots=8\na slots=8\n", r"hosts:2: host a is there twice"),
        ("# nobody\n", r"names no host"),
    ],
)
def test_what_is_no_hostfile_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_hostfile(tmp_path / "hosts")


def test_sick_hosts_are_named_with_reason_and_remedy_and_left_out(
    shim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "doctor.json"
    code = doctor(_hostfile(tmp_path, "one", "locked", "sick", "moved", "two"), out, [tmp_path])
    found = json.loads(out.read_text())
    assert code == 1 and not found["healthy"]
    assert {host: values["healthy"] for host, values in found["hosts"].items()} == {
        "one": True,
        "locked": False,
        "sick": False,
        "moved": False,
        "two": True,
    }
    assert found["hosts"]["locked"]["reasons"] == ["ssh: locked: Permission denied (publickey,password)."]
    assert found["hosts"]["sick"]["reasons"] == ["ECC: 2 uncorrectable errors"]
    assert "No such file or directory" in found["hosts"]["moved"]["reasons"][0]
    page = capsys.readouterr().out
    assert "2 of 5 hosts healthy" in page and "ssh-copy-id locked" in page and "same path on every host" in page
    assert "5 GB/s bus bandwidth over 2 processes on 2 hosts" in page
    assert not list(tmp_path.glob(".mvd_ds*")), "the token is taken away"


def test_a_host_that_says_nothing_costs_a_bounded_time(
    shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_hosts, "FIRST_ANSWER_SECONDS", 1)
    monkeypatch.setattr(doctor_hosts, "GRACE_SECONDS", 1)
    assert doctor(_hostfile(tmp_path, "down", "one", "two"), None, []) == 1
    assert "down: ssh: did not answer within 1 s" in capsys.readouterr().out


def test_a_clock_that_is_ahead(shim: Path) -> None:
    found = check_ssh(["one", "early"])
    assert found["one"].state == "ok" and found["one"].facts == {"address": "127.0.0.1"}
    assert found["early"].state == "warn" and "its clock is +9" in found["early"].text


def test_a_group_is_started_as_the_launcher_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    monkeypatch.setenv("SECRET", "stays here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".deepspeed_env").write_text("NCCL_SOCKET_IFNAME=eth 1\n")
    commands = group_commands({"a": 2, "b": 1}, "10.0.0.1", ["--answer", "group"])
    assert list(commands) == ["a", "b"]
    assert "--node_rank=1 --master_addr=10.0.0.1" in commands["b"] and commands["b"].startswith(f"cd {tmp_path} && export ")
    assert "NCCL_DEBUG=WARN" in commands["a"] and "NCCL_SOCKET_IFNAME='eth 1'" in commands["a"] and "SECRET" not in commands["a"]


@pytest.mark.launch
def test_two_real_hosts_are_examined_and_add_up(shim: Path, tmp_path: Path) -> None:
    out = tmp_path / "doctor.json"
    hosts = _hostfile(tmp_path, "real1", "real2")
    done = alone("doctor", "--hostfile", str(hosts), "--json", str(out), "--folder", str(tmp_path), check=False)
    found = json.loads(out.read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["healthy"] and list(found["hosts"]) == ["real1", "real2"]
    names = {finding["name"]: finding for finding in found["hosts"]["real2"]["findings"]}
    assert names["matrix product"]["facts"]["tflops"] > 0 and names[f"shared {tmp_path}"]["state"] == "ok"
    together = found["group"]["findings"][0]
    assert together["name"] == "all-reduce" and "over 2 processes on 2 hosts" in together["text"]
    assert float(together["text"].split()[0]) > 0


def test_the_reason_of_ssh_does_not_name_it_again() -> None:
    """The page puts the check's name, which is ssh, in front."""
    reply = Reply(255, "", "ssh: Could not resolve hostname gone: Name or service not known\n", 0.0, 0.0)
    reason, remedy = failure_of("gone", reply, 20)
    assert reason == "Could not resolve hostname gone: Name or service not known"
    assert remedy == "write a name into the hostfile that resolves"
