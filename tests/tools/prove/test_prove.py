"""``prove`` keeps what its parts find, ends those that hang, names those that crash, and goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mvd_ds.files import ConfigError
from mvd_ds.tools.prove import prove as module
from mvd_ds.tools.prove.parts import PARTS, Part
from mvd_ds.tools.prove.prove import prove

CHECK = '{"checks": [{"name": "one", "passed": %s}], "measured": {}, "skipped": {}}'
BEHAVIOUR = {
    "sound": "write('true')",
    "wrong": "write('false')",
    "hangs": "write('true'); time.sleep(60)",
    "crashes": "write('true'); print('no luck'); sys.exit(3)",
    "impossible": 'open(sys.argv[1], "w").write(\'{"checks": [], "measured": {}, "skipped": {"it": "no GPU"}}\')',
}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts whose processes behave as their names say; returns the names that were started, in order."""
    started: list[str] = []

    def start(
        name: str, _device: str, _seconds: float, answer: Path, log: Any, _group: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        started.append(name)
        code = f"import sys, time\ndef write(passed): open(sys.argv[1], 'w').write('''{CHECK}''' % passed)\n{BEHAVIOUR[name]}"
        return subprocess.Popen([sys.executable, "-c", code, str(answer)], stdout=log, stderr=log, start_new_session=True)

    monkeypatch.setattr(module, "PARTS", {name: Part("none", 0.1, False, name) for name in BEHAVIOUR})
    monkeypatch.setattr(module, "LEAST_SECONDS", 0.1)
    monkeypatch.setattr(module, "_start", start)
    return started


def test_every_part_has_its_say_whatever_the_others_do(parts: list[str], tmp_path: Path) -> None:
    output = tmp_path / "new" / "prove.json"
    assert prove(0.3, output, "cpu", [], False) == 1
    found = json.loads(output.read_text())["parts"]
    states = {name: part["state"] for name, part in found.items()}
    assert states == {
        "sound": "passed",
        "wrong": "failed",
        "hangs": "out of time",
        "crashes": "crashed",
        "impossible": "not possible here",
    }
    assert found["hangs"]["checks"] == [{"name": "one", "passed": True}], "what it had found is kept"
    assert "exit code 3: no luck" in found["crashes"]["note"] and found["impossible"]["note"] == "no GPU"
    page = output.with_suffix(".html").read_text()
    assert "out of time" in page and "no luck" in page

    parts.clear()
    prove(0.3, output, "cpu", [], False)
    assert parts == ["hangs", "crashes"], "results stay, and what has none is tried again"
    parts.clear()
    prove(0.3, output, "cpu", ["sound"], False)
    assert parts == ["sound"]
    parts.clear()
    values = json.loads(output.read_text())
    values["versions"]["torch"] = "0.1"
    output.write_text(json.dumps(values))
    prove(0.3, output, "cpu", [], False)
    assert parts == list(BEHAVIOUR), "results of another version are no results"


def test_parts_without_time_are_named(parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_SECONDS", 1e9)
    assert prove(0.1, tmp_path / "prove.json", "cpu", [], False) == 0
    assert not parts
    states = [part["state"] for part in json.loads((tmp_path / "prove.json").read_text())["parts"].values()]
    assert set(states) == {"not begun"}


def test_an_unknown_part_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'kernels'"):
        prove(1, tmp_path / "prove.json", "cpu", ["kernel"], False)


def test_kernels_and_engines_are_proven_on_a_cpu(tmp_path: Path) -> None:
    output = tmp_path / "prove.json"
    command = [
        sys.executable,
        "-m",
        "mvd_ds",
        "prove",
        "--device",
        "cpu",
        "--output",
        str(output),
        "--only",
        "kernels",
        "engines",
    ]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(output.read_text())["parts"]
    assert {name: part["state"] for name, part in found.items()} == {"kernels": "passed", "engines": "passed"}
    assert len(found["kernels"]["checks"]) == 24 and len(found["engines"]["checks"]) == 15
    assert any("flash_attn" in name for name in found["kernels"]["skipped"])


@pytest.mark.nightly
def test_all_parts_are_proven_on_a_cpu(tmp_path: Path) -> None:
    output = tmp_path / "prove.json"
    command = [sys.executable, "-m", "mvd_ds", "prove", "--device", "cpu", "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(output.read_text())["parts"]
    assert {name: part["state"] for name, part in found.items()} == dict.fromkeys(PARTS, "passed")
