"""The command ``checkpoints``: list, verify, prune or convert the checkpoints of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvd_ds.files import ConfigError
from mvd_ds.tools.parser import positive

SUMMARY = "list, verify, prune or convert the checkpoints of a run"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``checkpoints`` to its parser."""
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="folder of a run, of its checkpoints, or of one checkpoint")
    add("--verify", action="store_true", help="read every file and compare its digest, not only its size")
    add("--prune", type=positive, metavar="COUNT", help="remove all but the newest COUNT")
    add("--keep-every", type=positive, metavar="STEPS", help="with --prune: also keep those at multiples of STEPS")
    add("--to", choices=("safetensors",), help="write the model of one checkpoint as a model folder")
    add("--output", type=Path, metavar="OUT", help="with --to: the folder to write")
    add("--step", type=positive, help="with --to: step of the checkpoint (default: the latest)")
    add("--ema", action="store_true", help="with --to: the moving average in place of the weights")


def run(options: argparse.Namespace) -> None:
    """Do what was asked of the checkpoints; without a request, list them."""
    from mvd_ds.tools.checkpoints import convert_checkpoint, list_checkpoints, prune_checkpoints
    from mvd_ds.training.liveness.folder_owner import FolderOwner

    if options.prune is not None:
        prune_checkpoints(options.folder, options.prune, options.keep_every)
    elif options.to is not None:
        if options.output is None:
            raise ConfigError("checkpoints: --to needs --output, the folder to write")
        with FolderOwner(options.output, "--output").take():
            convert_checkpoint(options.folder, options.output, options.step, options.ema)
    else:
        list_checkpoints(options.folder, options.verify)
