"""The package as its source says it: files, imports and the graph that they make. Nothing of it is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mvd_ds"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package: ``mvd_ds/data/loader.py`` is ``mvd_ds.data.loader``."""
    parts = ("mvd_ds", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imports_of(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything a file imports, and of every use of ``torch.distributed``.

    Args:
        tree: the parsed file.
        path: where the file is; relative imports are resolved by it.
    """
    package = ["mvd_ds", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            yield node.lineno, "torch.distributed"


def module_of(name: str, modules: dict[str, Path]) -> str | None:
    """Return the module of the package that an imported ``name`` lives in; None for names of other packages."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def import_graph(texts: dict[str, str]) -> dict[str, set[str]]:
    """Return the modules that each module imports, imports inside of functions included.

    Args:
        texts: source text of every module by dotted name.
    """
    modules = {name: MODULES.get(name, PACKAGE / (name.partition(".")[2].replace(".", "/") + ".py")) for name in texts}
    graph: dict[str, set[str]] = {}
    for name, text in texts.items():
        found = {module_of(imported, modules) for _, imported in imports_of(ast.parse(text), modules[name])}
        graph[name] = {other for other in found if other is not None and other != name}
    return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the names along one import cycle, the first of them again at the end; empty if there is none."""
    done: set[str] = set()

    def search(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            cycle = search(other, [*trail, name])
            if cycle:
                return cycle
        done.add(name)
        return []

    return next((cycle for name in sorted(graph) if (cycle := search(name, []))), [])
