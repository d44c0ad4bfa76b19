"""The run that the distributed tests compare with: two processes, the recipe's own ZeRO-3 and sharded teachers."""

from __future__ import annotations

from pathlib import Path

import pytest

from launching import launch
from shrinking import RECIPE


@pytest.fixture(scope="session")
def run(shrunk: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero3") / "run"
    launch(2, "distill", RECIPE, *shrunk, f"run.output={folder}")
    return folder
