"""The parts of ``prove`` in the order of their worth: a new one is a module with ``run`` and a row of the table."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import NamedTuple

import torch

from mvd_ds.tools.prove.record import Record


class Part(NamedTuple):
    """A row of the table."""

    module: str
    """File of this folder whose ``run(record, device)`` does it."""
    share: float
    """Largest share of the minutes that it may take."""
    in_group: bool
    """Whether it is run by one process for each GPU, together."""
    title: str
    """Heading on the page."""


PARTS = {
    "kernels": Part("kernels", 0.15, False, "Attention kernels, forward and backward, against fp32 on the CPU"),
    "step": Part("one_step", 0.3, False, "One training step: eager and compiled blocks, bf16, FP8 and graphed teachers"),
    "engines": Part("engines", 0.3, True, "DeepSpeed engines: ZeRO stages, teacher placements, a step that is not finite"),
    "resume": Part("resume", 0.3, False, "Train, save and resume through the launcher, to the bit"),
    "speed": Part("speed", 0.6, False, "Speed of a step beside the usual ways to write it, and beside the plan"),
    "loader": Part("loader", 0.25, False, "Clips that the loader of this host can give"),
}


def answer_part(name: str, answer: Path, device: str, seconds: float) -> None:
    """Run part ``name`` in this process and write its findings to ``answer``; ranks other than the first write nothing."""
    is_main = os.environ.get("RANK", "0") == "0"
    record = Record(answer if is_main else None, seconds)
    is_cuda = device != "cpu" and torch.cuda.is_available()
    module = importlib.import_module(f"mvd_ds.tools.prove.{PARTS[name].module}")
    module.run(record, torch.device("cuda" if is_cuda else "cpu"))
