"""The command line's parser: every fault is one line, and a misspelt option is answered with the nearest right one."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mvd_ds.files import did_you_mean, printable

USER_FAULT = 2
"""Exit code of a mistake that the user must mend."""
_CHOICE = re.compile(r"(?P<what>.+): invalid choice: '(?P<name>.*)' \((?P<known>choose from .*)\)")
"""argparse's words for a value that is none of several."""


class Parser(argparse.ArgumentParser):
    """A parser, of the command line or of one command, that reports a fault in one line."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as ``argparse`` does, and refuse unknown options with a hint at the nearest known one.

        Settings ``key=value`` may stand anywhere behind the recipe, also behind options, where ``argparse`` would not look.
        """
        parsed, unknown = super().parse_known_args(args, namespace)
        if hasattr(parsed, "overrides"):
            later = [item for item in unknown if "=" in item and not item.startswith("-")]
            parsed.overrides = [*parsed.overrides, *later]
            unknown = [item for item in unknown if item not in later]
        if unknown:
            name = unknown[0].partition("=")[0]
            hint = did_you_mean(name, self._option_string_actions)
            self.error(f"{name} is unknown" + (f"; {hint}" if hint else ""))
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Print one line, on rank 0 alone, and exit."""
        if found := _CHOICE.fullmatch(message):
            near = did_you_mean(found["name"], re.findall(r"'([^']+)'", found["known"]))
            message = f"{found['what']}: invalid choice: {found['name']!r}; {near or found['known']}"
        if os.environ.get("RANK", "0") == "0":
            print(f"{self.prog}: {printable(message)} (see {self.prog} --help)", file=sys.stderr, flush=True)
        sys.exit(USER_FAULT)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the recipe and the settings that replace its own."""
    parser.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="settings that replace the recipe's")


def positive(text: str) -> int:
    """Return the whole number from 1 on that ``text`` holds.

    Raises:
        ValueError: for anything else; argparse names option and value.
    """
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def above_zero(text: str) -> float:
    """Return the number above 0 that ``text`` holds.

    Raises:
        ValueError: for anything else; argparse names option and value.
    """
    if not float(text) > 0:
        raise ValueError(text)
    return float(text)
