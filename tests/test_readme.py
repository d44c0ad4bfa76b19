"""The pages tell the truth: their commands parse, their recipes and settings exist, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from draw_method import PICTURE, draw
from mvd_ds.cli import COMMANDS, _parser
from mvd_ds.config import RECIPE_FOLDER, load_recipe, recipe_names
from recipe_pages import PAGE, header_of, recipe_page

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
FOLDERS = ("ds_configs", "launchers", "mvd_ds", "tests")
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(page for name in FOLDERS for page in (ROOT / name).rglob("README.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def lines_of(page: Path) -> list[str]:
    """Return the command lines in the shell blocks of a page."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [
        line.strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]


LINES = {name: lines_of(page) for name, page in zip(NAMES, PAGES, strict=True)}
HEADERS = [header_of(name)["Command"].split("   ")[0] for name in recipe_names()]
EVERY = [*(line for lines in LINES.values() for line in lines), *HEADERS]


def arguments_of(line: str) -> list[str] | None:
    """Return what follows the module's name in a command line of ours, None for another program's."""
    found = re.search(r"(?:--module|-m) mvd_ds (.*)", line)
    return shlex.split(found.group(1), comments=True) if found else None


@pytest.mark.parametrize("line", [line for line in EVERY if arguments_of(line)])
def test_commands_parse_and_recipes_load(line: str) -> None:
    arguments = arguments_of(line)
    assert arguments
    options = _parser().parse_args(arguments)
    if hasattr(options, "recipe"):
        command = {"preflight": None, "cache-targets": "distill"}.get(arguments[0], options.command)
        load_recipe(options.recipe, options.overrides, command)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_there_and_are_bash(name: str) -> None:
    for script in set(re.findall(r"bash (launchers/\w+\.sh)", (ROOT / name).read_text(encoding="utf-8"))):
        subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
        assert (ROOT / script).stat().st_mode & 0o111


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", NAMES)
def test_files_and_tests_that_are_named_are_there(name: str) -> None:
    """Paths of tests and of modules in backticks; a pattern or a folder counts where anything matches."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:tests|mvd_ds|launchers|ds_configs)/[\w/.*{}-]+)`", text):
        if "{" not in path:
            assert list(ROOT.glob(path.rstrip("/"))), f"{name}: {path}"


def test_the_first_page_is_short_and_names_every_command() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 1200
    assert [line for line in LINES["README.md"] if line.startswith("bash")] == ["bash launchers/quickstart.sh"]
    for command in COMMANDS:
        assert f"`{command}" in text, command
    for page in NAMES:
        linked = f"]({page})" in text
        assert linked or page == "README.md" or page == "tests/benchmarks/README.md", f"{page} cannot be reached"


def test_the_page_of_recipes_is_what_their_headers_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == recipe_page(), "python tests/recipe_pages.py writes it anew"
    assert {path.stem for path in RECIPE_FOLDER.glob("*/*.yaml")} == set(recipe_names())


def test_the_picture_is_what_its_script_draws() -> None:
    assert PICTURE.read_text(encoding="utf-8") == draw(), "python tests/draw_method.py draws it anew"


def test_every_launcher_stands_in_their_table() -> None:
    text = (ROOT / "launchers" / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in (ROOT / "launchers").iterdir() if path.is_file()} - {"README.md"}
    assert {name for name in files if f"`{name}`" not in text} == set()
