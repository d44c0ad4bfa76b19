"""The house's rules, enforced: who imports whom, how large things may grow, what may stand at the top level."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mvd_ds"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
STANDARD = sys.stdlib_module_names | {"__future__"}
ROOMS = {
    "config",
    "data",
    "models",
    "objectives",
    "training",
    "evaluation",
    "runs",
    "tools",
    "cli",
    "api",
    "video_classifier",
    "files",
}


class Rule(NamedTuple):
    """What a room may import."""

    rooms: frozenset[str]
    """Other rooms."""
    packages: frozenset[str] | None
    """Packages besides the standard library (None: any but ``never``)."""
    never: frozenset[str] = frozenset({"deepspeed"})


def _rule(rooms: str, packages: str | None, never: str = "deepspeed") -> Rule:
    return Rule(
        frozenset(rooms.split()) | {"files"}, None if packages is None else frozenset(packages.split()), frozenset(never.split())
    )


NO_CLUSTER = "deepspeed torch.distributed"
RULES = {
    "files": _rule("", ""),
    "config": _rule("", "pydantic yaml", "torch"),
    "models": _rule("config", "torch timm einops numpy safetensors flash_attn", NO_CLUSTER),
    "data": _rule("config", "torch numpy einops decord av torchcodec PIL sklearn rich", NO_CLUSTER),
    "objectives": _rule("config", "torch einops", NO_CLUSTER),
    "training": _rule("config objectives", None),
    "training/engine/deepspeed_engine.py": _rule("config training", None, ""),
    "training/engine/deepspeed_start.py": _rule("config training", None, ""),
    # The reader of shard files is the models room's, where teachers come from checkpoints too.
    "training/checkpoint/checkpoint.py": _rule("config training models", None),
    "training/checkpoint/resharding.py": _rule("config training models", None),
    "evaluation": _rule("config", "torch numpy sklearn safetensors PIL matplotlib", NO_CLUSTER),
    "video_classifier": _rule("config data evaluation models", "torch", NO_CLUSTER),
    "api": _rule("config evaluation models objectives video_classifier", "torch pydantic", NO_CLUSTER),
    "runs": _rule(" ".join(ROOMS - {"runs", "tools", "cli", "api", "video_classifier", "files"}), None),
    "tools": _rule(" ".join(ROOMS - {"tools", "cli"}), None),
    "cli": _rule(" ".join(ROOMS - {"cli"}), None),
    "__main__": _rule("cli", ""),
    "__init__": _rule("", ""),
}


def _room(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.as_posix() if inside.as_posix() in RULES else inside.parts[0].removesuffix(".py")


def _imports(tree: ast.AST, path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of everything a file imports, and of every use of ``torch.distributed``."""
    found: list[tuple[int, str]] = []
    package = ["mvd_ds", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{stem}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            found.append((node.lineno, "torch.distributed"))
    return found


def _matches(name: str, prefixes: frozenset[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _broken_imports(text: str, path: Path) -> list[str]:
    room, faults = _room(path), []
    rule = RULES[room]
    for line, name in _imports(ast.parse(text), path):
        top, _, rest = name.partition(".")
        if top == "mvd_ds":
            other = rest.partition(".")[0]
            allowed = other == room or other in rule.rooms or other not in ROOMS
        else:
            allowed = not _matches(name, rule.never) and (rule.packages is None or top in STANDARD or top in rule.packages)
        if not allowed:
            faults.append(f"{path.relative_to(PACKAGE).as_posix()}:{line}: {room} must not import {name}")
    return faults


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    assert _room(path) in RULES, f"{path} is in no room"
    assert _broken_imports(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("config/base.py", "import torch"),
        ("config/base.py", "from mvd_ds import models"),
        ("models/vit.py", "from mvd_ds.data.batch import ClipBatch"),
        ("models/vit.py", "from ..data import batch"),
        ("models/vit.py", "import torch\nx = torch.distributed.get_rank()"),
        ("data/loader.py", "from torch import distributed"),
        ("data/loader.py", "import torch.distributed as dist"),
        ("objectives/losses.py", "from mvd_ds.training import step"),
        ("objectives/losses.py", "def f():\n    import numpy"),
        ("training/loop.py", "import deepspeed"),
        ("training/loop.py", "from deepspeed.ops.adam import FusedAdam"),
        ("training/loop.py", "import mvd_ds.models.vit"),
        ("training/engine/deepspeed_engine.py", "from mvd_ds.objectives import losses"),
        ("evaluation/probes.py", "import torch.distributed"),
        ("runs/train.py", "from mvd_ds.tools import report"),
        ("tools/report/report.py", "from mvd_ds.cli import main"),
    ],
)
def test_a_broken_rule_is_seen(where: str, line: str) -> None:
    assert len(_broken_imports(line, PACKAGE / where)) == 1


def test_only_the_command_line_and_tools_start_runs() -> None:
    assert {room for room, rule in RULES.items() if "runs" in rule.rooms} == {"cli", "tools"}
    assert {room for room, rule in RULES.items() if "tools" in rule.rooms} == {"cli"}


def test_help_imports_nothing_but_the_standard_library() -> None:
    """Half a second of pydantic, before anybody has asked for a recipe."""
    code = (
        "import sys, mvd_ds.cli; mvd_ds.cli._parser().format_help(); print([m for m in ('pydantic', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_and_the_settings_import_without_torch() -> None:
    code = "import sys, mvd_ds.cli, mvd_ds.config; print([m for m in ('torch', 'numpy', 'deepspeed') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_fit_the_eye(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300, "split it by subject"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_is_left_open_or_unsaid(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}
    assert ast.get_docstring(tree), "a file says what it holds"
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{where}: bare except"
        assert not (isinstance(node, ast.Name) and node.id == "NotImplementedError"), f"{where}: a stub"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not any(word in line for word in ("TODO", "FIXME", "XXX")), f"line {number} is left open"


def test_the_top_level_belongs_to_the_owner() -> None:
    owner = {"mvd_ds", "ds_configs", "launchers", "tests", "requirements.txt", "README.md"}
    tools = {"pyproject.toml", ".ci", ".gitignore", "LICENSE", "CONTRIBUTING.md"}
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    assert {Path(line).parts[0] for line in listed.splitlines()} <= owner | tools
