"""The rules of the house, enforced: who imports whom, how large things may grow, what may stand at the top level."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from house import MODULES, PACKAGE, ROOT, SOURCES, TESTS, find_cycle, import_graph, imports_of

STANDARD = sys.stdlib_module_names | {"__future__"}
ROOMS = [
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
    "mteb_encoder",
    "clips",
    "files",
]
NO_CLUSTER = "deepspeed torch.distributed"
MOST_FILES = 24


class Rule(NamedTuple):
    """What a room or a wing of one may import."""

    inside: tuple[str, ...]
    """Prefixes of our own modules, without ``mvd_ds.``; an exclamation mark forbids what it stands before."""
    packages: frozenset[str] | None
    """Packages besides the standard library (None: any but ``never``)."""
    never: frozenset[str]
    """Packages and modules that may not be imported in any way."""


def _rule(inside: str, packages: str | None, never: str = "deepspeed") -> Rule:
    allowed = None if packages is None else frozenset(packages.split())
    return Rule((*inside.split(), "files"), allowed, frozenset(never.split()))


MODEL_PACKAGES = "torch timm einops numpy safetensors flash_attn transformers"
DATA_PACKAGES = "torch numpy einops decord av torchcodec PIL sklearn rich tokenizers vizdoom"
#: What every command's declaration may use: the parser and the options that several commands share.
LIGHT = "tools.parser tools.commands.recipe_options"
#: The longest prefix of a file's path decides. Every room may import itself as far as its own line says.
RULES = {
    "files": _rule("", ""),
    "config": _rule("config", "pydantic yaml", "torch"),
    "models": _rule("config models !models.acceleration", MODEL_PACKAGES, NO_CLUSTER),
    "models/acceleration": _rule("config models", MODEL_PACKAGES, NO_CLUSTER),
    "data": _rule("config data", DATA_PACKAGES, NO_CLUSTER),
    "data/readers": _rule("config data.readers data.remote.addresses", DATA_PACKAGES, NO_CLUSTER),
    "data/remote": _rule("config data.remote data.readers data.manifests.captions", "numpy fsspec", NO_CLUSTER),
    "objectives": _rule("config objectives", "torch einops", NO_CLUSTER),
    "training": _rule("config objectives training", None),
    # The reader of shard files is in the models room, where teachers come from checkpoints too.
    "training/checkpoint": _rule("config training models.formats", None),
    "training/engine": _rule("config training", None, ""),
    "evaluation": _rule("config evaluation models", "torch numpy sklearn safetensors PIL matplotlib", NO_CLUSTER),
    "clips": _rule("config data", "torch numpy pydantic", NO_CLUSTER),
    "video_classifier": _rule("clips config data evaluation models", "torch", NO_CLUSTER),
    "mteb_encoder": _rule("config data video_classifier", "torch numpy mteb", NO_CLUSTER),
    "api": _rule("clips config evaluation models mteb_encoder objectives runs video_classifier", "torch pydantic", NO_CLUSTER),
    "runs": _rule("config data models objectives training evaluation runs", None),
    "tools": _rule(
        "config data models objectives training evaluation runs api video_classifier tools !tools.bench !tools.doctor !tools.plan"
        " !tools.launch !tools.report",
        None,
    ),
    "tools/bench": _rule(
        f"config data models objectives training runs tools.bench tools.plan tools.machine tools.report {LIGHT}", None
    ),
    "tools/doctor": _rule(f"config data models training tools.doctor tools.machine {LIGHT}", None),
    "tools/commands": _rule(f"{' '.join(ROOMS)} !cli", None),
    "tools/prove": _rule(
        f"config data models objectives training runs tools.prove tools.bench tools.plan tools.machine tools.report {LIGHT}", None
    ),
    "tools/machine": _rule("config tools.machine", None),
    "tools/plan": _rule(f"config data models objectives training runs tools.plan tools.machine {LIGHT}", None),
    "tools/report": _rule(f"config data evaluation runs training tools.report {LIGHT}", None),
    "tools/launch": _rule(f"config data training tools.launch tools.doctor.ssh {LIGHT}", None),
    "cli": _rule(" ".join(ROOMS), None),
    "__main__": _rule("cli", ""),
    "__init__": _rule("", ""),
}


def _place(path: Path) -> str:
    inside = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return max((place for place in RULES if inside == place or inside.startswith(f"{place}/")), key=len, default="")


def _matches(name: str, prefixes: frozenset[str] | tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _allowed_inside(name: str, rule: Rule, place: str) -> bool:
    """Return whether ``name``, without ``mvd_ds.``, may be imported; names of the package itself (its version) always may."""
    if name.partition(".")[0] not in ROOMS:
        return True
    own = place.replace("/", ".")
    forbidden = tuple(prefix[1:] for prefix in rule.inside if prefix.startswith("!"))
    return (_matches(name, (own,)) and not _matches(name, forbidden)) or (
        _matches(name, rule.inside) and not _matches(name, forbidden)
    )


def _broken_imports(text: str, path: Path) -> list[str]:
    place, faults = _place(path), []
    rule = RULES[place]
    for line, name in imports_of(ast.parse(text), path):
        top, _, rest = name.partition(".")
        if top == "mvd_ds":
            allowed = _allowed_inside(rest, rule, place)
        else:
            allowed = not _matches(name, rule.never) and (rule.packages is None or top in STANDARD or top in rule.packages)
        if allowed and top == "deepspeed":
            allowed = path.parent.name == "engine" and path.stem.startswith("deepspeed_")
        if not allowed:
            faults.append(f"{path.relative_to(PACKAGE).as_posix()}:{line}: {place} must not import {name}")
    return faults


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    assert _place(path) in RULES, f"{path} is in no room"
    assert _broken_imports(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("files.py", "import torch"),
        ("files.py", "from mvd_ds.config import Settings"),
        ("config/base.py", "import torch"),
        ("config/base.py", "from mvd_ds import models"),
        ("models/vit.py", "from mvd_ds.data.batch import ClipBatch"),
        ("models/vit.py", "from ..data import batch"),
        ("models/vit.py", "import torch\nx = torch.distributed.get_rank()"),
        ("models/layers.py", "from mvd_ds.models.acceleration.compiled import compile_blocks"),
        ("models/formats/own.py", "from mvd_ds.models.acceleration import fp8"),
        ("data/loader.py", "from torch import distributed"),
        ("data/loader.py", "import torch.distributed as dist"),
        ("data/readers/decode.py", "from mvd_ds.data.manifests.manifest import Manifest"),
        ("data/readers/decode.py", "from mvd_ds.data import masking"),
        ("objectives/losses.py", "from mvd_ds.training import step"),
        ("objectives/losses.py", "def f():\n    import numpy"),
        ("training/loop.py", "import deepspeed"),
        ("training/loop.py", "from deepspeed.ops.adam import FusedAdam"),
        ("training/loop.py", "import mvd_ds.models.vit"),
        ("training/engine/update_gate.py", "import deepspeed"),
        ("training/engine/deepspeed_engine.py", "from mvd_ds.objectives import losses"),
        ("evaluation/probes.py", "import torch.distributed"),
        ("runs/train.py", "from mvd_ds.tools import report"),
        ("tools/report/report.py", "from mvd_ds.cli import main"),
        ("tools/report/report.py", "from mvd_ds.tools.plan import case"),
        ("tools/launch/hosts.py", "from mvd_ds.tools.doctor.gpus import read"),
        ("tools/machine/devices.py", "from mvd_ds.tools.doctor import host"),
        ("tools/convert.py", "from mvd_ds.tools.bench import step"),
    ],
)
def test_a_broken_rule_is_seen(where: str, line: str) -> None:
    assert len(_broken_imports(line, PACKAGE / where)) == 1


def test_only_the_command_line_tools_and_the_python_interface_start_runs() -> None:
    starters = {place.partition("/")[0] for place, rule in RULES.items() if "runs" in rule.inside}
    assert starters == {"cli", "tools", "runs", "api"}
    assert {place.partition("/")[0] for place, rule in RULES.items() if "tools" in rule.inside} == {"cli", "tools"}


def test_no_imports_go_in_a_circle() -> None:
    assert find_cycle(import_graph({name: path.read_text() for name, path in MODULES.items()})) == []


def test_a_circle_is_seen() -> None:
    texts = {
        "mvd_ds.data.a": "from mvd_ds.data.b import x",
        "mvd_ds.data.b": "def f():\n    from mvd_ds.data import c",
        "mvd_ds.data.c": "import mvd_ds.data.a",
        "mvd_ds.data.d": "from mvd_ds.data import a",
    }
    assert find_cycle(import_graph(texts)) == ["mvd_ds.data.a", "mvd_ds.data.b", "mvd_ds.data.c", "mvd_ds.data.a"]


def _too_full(files: list[Path]) -> list[str]:
    folders = [path.parent for path in files]
    return sorted({f"{folder} holds more than {MOST_FILES} files" for folder in folders if folders.count(folder) > MOST_FILES})


def test_folders_are_not_too_full() -> None:
    assert _too_full(SOURCES) == []


def test_a_full_folder_is_seen() -> None:
    assert len(_too_full([PACKAGE / "data" / f"{number}.py" for number in range(MOST_FILES + 1)])) == 1


def test_help_imports_nothing_but_the_standard_library() -> None:
    """Half a second of pydantic would pass before anybody has asked for a recipe."""
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
    assert path.stem not in sys.stdlib_module_names or path.stem == "__main__", "a standard module bears this name"
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
