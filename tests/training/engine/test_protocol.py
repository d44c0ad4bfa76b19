"""Training outside of ``training/engine`` knows the engine's protocol, its shards and what stands on them, and no more."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mvd_ds.training

ROOM = Path(mvd_ds.training.__file__).parent
OUTSIDE = sorted(path for path in ROOM.rglob("*.py") if "engine" not in path.relative_to(ROOM).parts)
KNOWN = {"mvd_ds.training.engine.protocol", "mvd_ds.training.engine.engine_shards", "mvd_ds.training.engine.living_teacher"}


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.relative_to(ROOM).as_posix())
def test_training_knows_the_engine_by_its_protocol(path: Path) -> None:
    imported = {node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.startswith("mvd_ds.training.engine")} <= KNOWN
