"""The command ``convert``: show what a weights file holds, and write it in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "show what a weights file holds, tensor by tensor, and write it in another format"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``convert`` to its parser."""
    add = parser.add_argument
    add("source", metavar="IN", type=Path, help="file or folder: ours, MAE, VideoMAE, MVD, Hugging Face, ZeRO")
    add("target", metavar="OUT", type=Path, nargs="?", help="file or folder to write; without it, only the table is printed")
    add("--to", default="mvd_ds", metavar="FORMAT", help="format to write; 'list' explains them (default: ours)")
    add("--from", dest="from_format", metavar="FORMAT", help="format of IN where its content does not tell")
    add("--heads", type=int, metavar="COUNT", help="attention heads of the encoder where the file does not say")
    add("--decoder-heads", type=int, metavar="COUNT", help="attention heads of the decoders where the file does not say")


def run(options: argparse.Namespace) -> None:
    """Show or convert the weights."""
    from mvd_ds.tools.convert import convert
    from mvd_ds.tools.convert_in_order import TO_TIMM, convert_in_order

    if options.to.startswith(TO_TIMM):
        convert_in_order(options.source, options.target, options.to.removeprefix(TO_TIMM))
        return
    convert(options.source, options.target, options.to, options.from_format, options.heads, options.decoder_heads)
