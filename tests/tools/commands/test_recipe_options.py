"""Every command that runs recipes names a function that exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import mvd_ds

COMMANDS = Path(mvd_ds.__file__).parent / "tools" / "commands"
NAMED = {
    path.stem: found[1]
    for path in sorted(COMMANDS.glob("*.py"))
    if (found := re.search(r'run_recipe\(options, "([\w.]+)"', path.read_text()))
}


@pytest.mark.parametrize("command", NAMED)
def test_the_function_of_a_command_exists(command: str) -> None:
    file, _, name = NAMED[command].rpartition(".")
    assert callable(getattr(importlib.import_module(f"mvd_ds.runs.{file}"), name))


def test_the_commands_that_run_recipes_are_found() -> None:
    assert {"evaluate", "features", "finetune", "pretrain", "probe"} <= NAMED.keys()
