"""The command line's parser: every fault is one line, and a misspelt option is answered with the nearest right one."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

USER_FAULT = 2


class Parser(argparse.ArgumentParser):
    """As argparse's, for the command and for each of its subcommands."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            nearest = difflib.get_close_matches(name, self._option_string_actions, 1)
            self.error(f"{name} is unknown" + (f"; did you mean {nearest[0]}?" if nearest else ""))
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """One line, from one rank; ``--help`` has the rest."""
        if os.environ.get("RANK", "0") == "0":
            print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr, flush=True)
        sys.exit(USER_FAULT)
