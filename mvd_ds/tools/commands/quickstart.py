"""The command ``quickstart``: run the whole job, small, in the folder and the environment at hand."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from mvd_ds.files import ConfigError

SUMMARY = "run the whole job, small: sample videos, two teachers, a student distilled from both, probes, a report"
SCRIPT = Path(__file__).resolve().parents[2] / "launchers" / "quickstart.sh"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``quickstart`` to its parser."""
    add = parser.add_argument
    add("--output", type=Path, default=Path("runs/quickstart"), metavar="FOLDER", help="folder to write (default %(default)s)")
    add("--videos", type=Path, metavar="FOLDER|MANIFEST", help="your videos, in place of the sample set")
    add("--dry-run", action="store_true", help="print the command that would run, start nothing")
    add("overrides", metavar="key=value", nargs="*", help="settings of all three trainings, such as schedule.steps=2000")
    parser.epilog = "Run again, it goes on where it was. It uses the GPUs if there are any, else two processes on the CPU."


def run(options: argparse.Namespace) -> int:
    """Become the script ``launchers/quickstart.sh``.

    Raises:
        ConfigError: if an argument is no setting or the videos are not there.
    """
    for override in options.overrides:
        if "=" not in override:
            raise ConfigError(f"quickstart: '{override}' is not of the form key.path=value")
    if options.videos is not None and not options.videos.exists():
        raise ConfigError(f"quickstart: --videos {options.videos}: no such folder or manifest")
    command = ["bash", str(SCRIPT), "--output", str(options.output)]
    command += [] if options.videos is None else ["--videos", str(options.videos)]
    command += options.overrides
    if options.dry_run:
        print(shlex.join(command))
        return 0
    # The script calls `python` and `deepspeed`: those of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    sys.stdout.flush()
    os.execvpe(command[0], command, os.environ | {"PATH": path, "MVD_DS_INSTALLED": "1"})
