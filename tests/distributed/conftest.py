"""The run that the distributed tests compare with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run(two_processes: Path) -> Path:
    return two_processes
