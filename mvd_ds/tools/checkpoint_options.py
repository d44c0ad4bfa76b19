"""The options of ``checkpoints``, and which of its functions they ask for. No torch until one runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvd_ds.config import ConfigError


def add_options(command: argparse.ArgumentParser) -> None:
    """Options of ``checkpoints``."""
    command.add_argument("folder", metavar="DIR", type=Path, help="folder of a run, of its checkpoints, or of one")
    command.add_argument("--verify", action="store_true", help="read every file and compare its digest, not only its size")
    command.add_argument("--prune", type=_positive, metavar="COUNT", help="remove all but the newest COUNT")
    command.add_argument("--keep-every", type=_positive, metavar="STEPS", help="with --prune: keep multiples of STEPS too")
    command.add_argument("--to", choices=("safetensors",), help="write the model of one as a model folder")
    command.add_argument("--output", type=Path, metavar="OUT", help="with --to: the folder to write")
    command.add_argument("--step", type=_positive, help="with --to: which (default: the latest)")
    command.add_argument("--ema", action="store_true", help="with --to: the moving average in place of the weights")
    command.set_defaults(function=_run)


def _run(options: argparse.Namespace) -> None:
    from mvd_ds.tools.checkpoints import convert_checkpoint, list_checkpoints, prune_checkpoints

    if (options.to is None) != (options.output is None):
        raise ConfigError("checkpoints: --to and --output belong together")
    if options.prune is not None:
        prune_checkpoints(options.folder, options.prune, options.keep_every)
    elif options.to is not None:
        convert_checkpoint(options.folder, options.output, options.step, options.ema)
    else:
        list_checkpoints(options.folder, options.verify)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)
