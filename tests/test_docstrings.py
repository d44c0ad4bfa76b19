"""Docstrings are sentences that a stranger understands alone; openings without a head are refused."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from house import PACKAGE, SOURCES

HEADLESS = re.compile(r"(What|Whether|How|Of|Where|Why|Which|Who|Whose|With|As|From|Until|On|That|And|Or|But|By|In|At)\b")
#: Openings of a noun phrase: a function's docstring says what it does, so it begins with a verb.
PHRASE = re.compile(r"(The|A|An|One|Every|All|No|Each|Our|Its|Some|Any|This|These|Those|Everything|Nothing)\b|[^A-Z]")


def _public(tree: ast.Module) -> Iterator[tuple[str, ast.AST, str]]:
    """Yield name, node and docstring of the module and of its public classes, functions and methods."""
    text = ast.get_docstring(tree)
    if text:
        yield "module", tree, text
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            if text:
                yield node.name, node, text


def _is_noun(node: ast.AST) -> bool:
    """Return whether a docstring may name a thing: modules, classes, and properties and fixtures, which read like one."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def _faults(text: str) -> list[str]:
    faults = []
    for name, node, docstring in _public(ast.parse(text)):
        if HEADLESS.match(docstring) or (not _is_noun(node) and PHRASE.match(docstring)):
            faults.append(f"{name}: {docstring.splitlines()[0]}")
    return faults


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_public_docstrings_have_a_head(path: Path) -> None:
    assert _faults(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        '"""What a run needs."""',
        'class Masks:\n    """Of what is masked, the tokens."""',
        'def targets() -> None:\n    """The normalised targets."""',
        'def mean() -> None:\n    """(B, N, D) -> (B, D)."""',
        'def is_due() -> bool:\n    """Whether it is due."""',
        'class A:\n    def name(self) -> str:\n        """uint8 (B,)."""',
    ],
)
def test_a_headless_docstring_is_seen(text: str) -> None:
    assert len(_faults(text)) == 1


def test_a_sentence_passes() -> None:
    text = '"""Readers of video files."""\ndef f() -> int:\n    """Return the number of frames."""\n'
    assert _faults(text + 'class A:\n    @property\n    def width(self) -> int:\n        """The width D."""') == []
