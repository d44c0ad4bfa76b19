"""Run under the launcher by test_slow_rank.py: a distillation whose rank 1 computes slowly for some steps."""

from __future__ import annotations

import os
import sys
import time

from mvd_ds.cli import main
from mvd_ds.models.layers import Block

SLEEP_SECONDS = 0.01


def slow_down(calls: int) -> None:
    """Make the first ``calls`` forward passes of blocks slow."""
    forward, left = Block.forward, [calls]

    def slow_forward(self: Block, *arguments: object) -> object:
        if left[0] > 0:
            left[0] -= 1
            time.sleep(SLEEP_SECONDS)
        return forward(self, *arguments)

    Block.forward = slow_forward


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    if os.environ["RANK"] == "1":
        slow_down(int(arguments[0]))
    sys.exit(main(arguments[1:]))
