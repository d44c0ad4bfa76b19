"""Findings are on disk as soon as they are made, and what is no number passes no bound."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from mvd_ds.tools.prove.record import Record, relative_error


def test_a_finding_is_written_at_once(tmp_path: Path) -> None:
    record = Record(tmp_path / "part.json", 60)
    assert record.check("near", 1e-6, 1e-5) and not record.check("far", 1e-4, 1e-5)
    assert not record.check("no number", math.nan, 1e-5) and not record.check("endless", math.inf, 1e-5)
    record.skip("graphs", "needs a\nGPU")
    found = json.loads((tmp_path / "part.json").read_text())
    assert [check["passed"] for check in found["checks"]] == [True, False, False, False]
    assert found["checks"][2]["value"] == "nan" and found["skipped"] == {"graphs": "needs a GPU"}


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    Record(None, 60).require("fine", True)
    assert not list(tmp_path.iterdir())


def test_relative_error_is_that_of_the_norms() -> None:
    assert relative_error(torch.tensor([3.0, 4.4]), torch.tensor([3.0, 4.0])) == pytest.approx(0.08)
