"""The README tells the truth: its commands parse, its recipes and settings exist, its files are there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from mvd_ds.cli import _parser
from mvd_ds.config import RECIPE_FOLDER, load_recipe, recipe_names

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:bash|sh)\n(.*?)```", TEXT, flags=re.DOTALL)
LINES = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip() and not line.startswith("#")]
HEADERS = [
    line.removeprefix("# Command: ").split("   ")[0]
    for path in RECIPE_FOLDER.glob("*/*.yaml")
    for line in path.read_text().splitlines()
    if line.startswith("# Command: ")
]


def arguments_of(line: str) -> list[str] | None:
    """What follows the module's name in a command line of ours, None for another program's."""
    found = re.search(r"(?:--module|-m) mvd_ds (.*)", line)
    return shlex.split(found.group(1), comments=True) if found else None


@pytest.mark.parametrize("line", [line for line in [*LINES, *HEADERS] if arguments_of(line)])
def test_commands_parse_and_recipes_load(line: str) -> None:
    arguments = arguments_of(line)
    assert arguments
    options = _parser().parse_args(arguments)
    assert callable(options.function)
    if hasattr(options, "recipe"):
        load_recipe(options.recipe, options.overrides, options.command)


@pytest.mark.parametrize("script", sorted(set(re.findall(r"bash (launchers/\w+\.sh)", TEXT))))
def test_scripts_are_there_and_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    assert (ROOT / script).stat().st_mode & 0o111


def test_links_and_recipe_table() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    named = set(re.findall(r"`((?:mvd|mae|videomae)_\w+)`", TEXT)) & set(
        re.findall(r"`(\w+_(?:small|base|large|huge)\w*)`", TEXT)
    )
    named |= set(re.findall(r"`(evaluate_\w+|finetune_\w+|features)`", TEXT))
    shipped = {name for name in recipe_names() if not name.startswith(("quickstart", "demo"))}
    assert shipped <= named and named <= set(recipe_names())


def test_two_commands_come_first() -> None:
    assert [line for line in LINES if line.startswith("bash")][:2] == ["bash launchers/quickstart.sh", "bash launchers/test.sh"]
