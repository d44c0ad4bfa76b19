"""Tests stand where the code stands that they test: ``tests/data/readers/test_scan.py`` tests ``mvd_ds/data/readers/scan.py``."""

from pathlib import Path

import pytest

from house import PACKAGE, ROOT

#: Folders of tests that look at the whole: the launcher, several hosts, several processes, the shell scripts.
WHOLE = {"benchmarks", "cluster", "distributed", "end_to_end", "gpu", "experiments", "launchers", "soak"}
MIRRORED = [
    path
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if len(path.relative_to(ROOT / "tests").parts) > 1 and path.relative_to(ROOT / "tests").parts[0] not in WHOLE
]


def _is_home(test: Path) -> bool:
    """Return whether the package has a file in the mirrored folder whose name begins the test's, as in ``test_FILE_more.py``."""
    folder = PACKAGE / test.relative_to(ROOT / "tests").parent
    name = test.stem.removeprefix("test_")
    modules = [path.stem for path in folder.glob("*.py")] + [path.parent.name for path in folder.glob("*/__init__.py")]
    return any(name == module or name.startswith(f"{module}_") for module in modules)


@pytest.mark.parametrize("path", MIRRORED, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_a_test_stands_where_its_code_stands(path: Path) -> None:
    assert _is_home(path), "name it after the file that it tests, in the folder that mirrors that file's"


@pytest.mark.parametrize("name", ["data/test_scan.py", "data/readers/test_nothing.py", "nowhere/test_scan.py"])
def test_a_stray_test_is_seen(name: str) -> None:
    assert not _is_home(ROOT / "tests" / name)
