"""The display of rank 0 for the person who watches: a small panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from mvd_ds.files import printable


def say(text: str) -> None:
    """Print ``text`` on standard output at once, its control characters and undecodable names as escapes."""
    print(printable(text), flush=True)


def clock(seconds: float) -> str:
    """Return ``seconds`` as h:mm:ss or m:ss."""
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class StepProgress:
    """A display of stage, step, loss, speed and time left: two lines that stay on a terminal, plain lines elsewhere.

    Args:
        stage: what is running, such as ``distill quickstart_distill``.
        last_step: step at which it ends.
        every_seconds: without a terminal, seconds between two lines.
    """

    def __init__(self, stage: str, first_step: int, last_step: int, enabled: bool, every_seconds: float = 5.0) -> None:
        self.stage, self.last_step, self.every_seconds = stage, last_step, every_seconds
        self.enabled = enabled
        self.begun = Moment(time.monotonic(), first_step)
        self.first_told: Moment | None = None
        self.last_said = 0.0
        self.panel = Panel(stage, first_step, last_step) if enabled and sys.stdout.isatty() else None

    def update(self, step: int, text: str) -> None:
        """Show that ``step`` is done; ``text`` holds loss and speed."""
        if not self.enabled:
            return
        left = clock(self.time_left(step))
        if self.panel is not None:
            self.panel.show(step, text, left)
            return
        now = time.monotonic()
        if now - self.last_said >= self.every_seconds or step == self.last_step:
            self.last_said = now
            say(f"[{self.stage}] step {step}/{self.last_step}  {time.strftime('%H:%M:%S')}  {text}  {left} left")

    def time_left(self, step: int) -> float:
        """Return the seconds until the last step, at the mean speed since the first update.

        What came before holds the start of the loader and the first step: 8 s of it make 500 steps of 0.3 s look twice as long
        after 25 of them.
        """
        now = Moment(time.monotonic(), step)
        since = self.first_told or self.begun
        if step > since.step:
            self.first_told = self.first_told or now
            return (now.seconds - since.seconds) / (step - since.step) * (self.last_step - step)
        return 0.0

    def close(self) -> None:
        if self.panel is not None:
            self.panel.close()
            self.panel = None


class Moment(NamedTuple):
    """A step and the time at which it was done."""

    seconds: float
    step: int


class Panel:
    """Two lines of a terminal, within 80 columns: bar, step and time left, and below them loss and speed."""

    def __init__(self, stage: str, first_step: int, last_step: int, console: Console | None = None) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        self.task = self.bar.add_task(stage, total=last_step, completed=first_step, left="")
        self.live = Live(self.bar, console=console or Console(), refresh_per_second=4)
        self.live.start()

    def show(self, step: int, text: str, left: str) -> None:
        """Show that step ``step`` is done and that the rest takes ``left``."""
        self.bar.update(self.task, completed=step, left=f"{left} left")
        self.live.update(Group(self.bar, Text(text, style="dim", no_wrap=True, overflow="ellipsis")))

    def close(self) -> None:
        """Stop the display; its last state stays on the terminal."""
        self.live.stop()
