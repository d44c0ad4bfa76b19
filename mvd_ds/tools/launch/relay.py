"""The standard error of the launcher is passed on line by line, and read: pdsh names there the host that has ended."""

from __future__ import annotations

import re
import sys
import threading
import time
from typing import IO

#: pdsh -S: `pdsh@head: gpu-02: ssh exited with exit code 1`; DeepSpeed waits on for the other hosts.
_HOST_ENDED = re.compile(rb"^pdsh@\S+: (\S+): \S+ exited with exit code (\d+)")


class Relay(threading.Thread):
    """A thread that copies ``stream`` to standard error; ``ended`` is the first host whose shell failed, ``ended_at`` when."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self.stream = stream
        self.ended: str | None = None
        self.ended_at = 0.0
        self.start()

    def run(self) -> None:
        """Copy until the last process that holds the other end is gone."""
        for line in self.stream:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
            match = _HOST_ENDED.match(line)
            if match and self.ended is None:
                self.ended_at = time.monotonic()
                self.ended = f"{match[1].decode()} with exit code {match[2].decode()}"
