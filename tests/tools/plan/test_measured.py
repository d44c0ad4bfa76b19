"""A plan takes what was measured, and nothing that was measured elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mvd_ds.files import ConfigError
from mvd_ds.tools.machine.devices import find_machine
from mvd_ds.tools.plan.measured import as_measured


def _result(path: Path, **changes: Any) -> Path:
    cases = {f"L, {masks} masks": {"plan": {"measured_efficiency": share}} for masks, share in ((1, 0.5), (4, 0.7), (8, None))}
    measured = {"device": find_machine("h200", None, None, None).device.name, "matrix_tflops": 700.0, **cases, **changes}
    path.write_text(json.dumps({"parts": {"speed": {"measured": measured}}}))
    return path


def test_rate_and_efficiency_are_those_measured(tmp_path: Path) -> None:
    machine = find_machine("h200", None, None, None)
    found = as_measured(machine, _result(tmp_path / "prove.json"))
    assert (found.device.matrix_tflops, found.efficiency) == (700.0, 0.6)
    assert found.device.memory_gib == machine.device.memory_gib


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "CPU core"}, "was measured on CPU core, and the plan is for"),
        ({"matrix_tflops": 0.0}, "is no measurement"),
        ({"matrix_tflops": "many"}, "holds no measured step"),
        ({"L, 1 masks": {}, "L, 4 masks": {}, "L, 8 masks": {}}, "holds no measured step"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        as_measured(find_machine("h200", None, None, None), _result(tmp_path / "prove.json", **changes))
