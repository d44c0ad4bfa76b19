"""Run under the launcher by test_slow_rank.py: a distillation whose rank 1 computes slowly for some steps."""

from __future__ import annotations

import os
import socket
import sys
from types import SimpleNamespace

from mvd_ds.cli import main
from mvd_ds.models.layers import Block
from mvd_ds.training.reporting import health

SLOW_SECONDS, QUICK_SECONDS = 10.0, 1.0


def count_seconds(slow_calls: int) -> None:
    """Let a clock of this process's own measure blocks: each forward pass takes 1 s of it, the first ``slow_calls`` take 10 s.

    So the load of the machine changes nothing of what is measured; real waits for the loader are short beside it.
    """
    forward, left, now = Block.forward, [slow_calls], [0.0]

    def counted_forward(self: Block, *arguments: object) -> object:
        now[0] += SLOW_SECONDS if left[0] > 0 else QUICK_SECONDS
        left[0] -= 1
        return forward(self, *arguments)

    Block.forward = counted_forward
    health.time = SimpleNamespace(monotonic=lambda: now[0])


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    rank = os.environ["RANK"]
    # Processes of one CPU host are not named.
    socket.gethostname = lambda: f"host-{rank}"
    count_seconds(int(arguments[0]) if rank == "1" else 0)
    sys.exit(main(arguments[1:]))
