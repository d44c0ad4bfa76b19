"""The front door: ``python -m mvd_ds COMMAND ...``. A table of commands; nothing heavy is imported until one runs."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import sys
from typing import Protocol, cast

import mvd_ds
from mvd_ds.files import ConfigError, printable
from mvd_ds.tools.parser import USER_FAULT, Parser

FAILURE, INTERRUPTED, BROKEN_PIPE = 1, 130, 141

COMMANDS = {
    "quickstart": "commands.quickstart",
    # train
    "pretrain": "commands.pretrain",
    "tokenizer": "commands.tokenizer",
    "distill": "commands.distill",
    "finetune": "commands.finetune",
    "preflight": "commands.preflight",
    "launch": "launch.options",
    # data
    "prepare": "commands.prepare",
    "synthesize": "commands.synthesize",
    "cache-targets": "commands.cache_targets",
    # look
    "evaluate": "commands.evaluate",
    "probe": "commands.probe",
    "features": "commands.features",
    "classify": "commands.classify",
    "visualize": "commands.visualize",
    "report": "report.options",
    "compare": "commands.compare",
    # operate
    "recipes": "commands.recipes",
    "settings": "commands.settings",
    "plan": "plan.options",
    "doctor": "doctor.options",
    "prove": "prove.options",
    "status": "commands.status",
    "checkpoints": "commands.checkpoints",
    "replay": "commands.replay",
    "convert": "commands.convert",
    "export": "commands.export",
    "bench": "bench.options",
}
"""Module of every command under ``mvd_ds.tools``, in the order of ``--help``; see ``Command`` for what it declares."""


class Command(Protocol):
    """The names that a command's module has; importing it must cost nothing, so heavy imports stand inside ``run``."""

    SUMMARY: str

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's options to its parser."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Run the command; None is exit code 0."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 75 a run that was asked to stop, did, and goes on by the same command; 2 something that a person must mend,
    in one line each; 1 any other failure; 130 interrupted at once; 141 nobody reads the output any more. ``status`` has 3
    for a run that still runs.
    """
    try:
        return _run(arguments)
    except BrokenPipeError:
        return BROKEN_PIPE
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # As in `mvd_ds recipes | head -1`. The interpreter flushes again when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding cannot end a run
    options = _parser().parse_args(arguments)
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("mvd_ds").setLevel(logging.INFO if is_main else logging.ERROR)
    try:
        return options.function(options) or 0
    except ConfigError as error:
        # All ranks raise it alike; rank 0 speaks for them.
        if is_main:
            for line in str(error).splitlines():
                print(f"mvd_ds: {printable(line)}", file=sys.stderr, flush=True)
        return USER_FAULT
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"mvd_ds: {printable(error.filename or 'a file')}: {error.strerror or error}", file=sys.stderr, flush=True)
        return FAILURE
    except KeyboardInterrupt:
        if is_main:
            print("mvd_ds: interrupted; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        return INTERRUPTED


def load_command(name: str) -> Command:
    """Return the module of command ``name``."""
    return cast(Command, importlib.import_module(f"mvd_ds.tools.{COMMANDS[name]}"))


def subparser(name: str, parser: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """Return the parser of command ``name``, with its options added to ``parser`` if one is given."""
    module, parser = load_command(name), parser or Parser(prog=f"mvd_ds {name}")
    parser.set_defaults(function=module.run, command=None)
    module.add_options(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mvd_ds",
        description="Train large video models by Masked Video Distillation.",
        epilog="Under the launcher: deepspeed --module mvd_ds COMMAND RECIPE [key=value ...]",
    )
    parser.add_argument("--version", action="version", version=f"mvd_ds {mvd_ds.__version__}")
    # The deepspeed launcher puts this in front; the environment says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        summary = load_command(name).SUMMARY
        subparser(name, commands.add_parser(name, help=summary, description=summary))
    return parser
