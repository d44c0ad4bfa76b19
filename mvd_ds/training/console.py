"""What rank 0 tells the person who watches: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


def say(text: str) -> None:
    """One line on standard output, at once."""
    print(text, flush=True)


def clock(seconds: float) -> str:
    """``seconds`` as h:mm:ss or m:ss."""
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class StepProgress:
    """Stage, step, loss, speed and time left.

    Args:
        stage: what is running, such as ``distill quickstart_distill``.
        last_step: step at which it ends.
        every_seconds: without a terminal, seconds between two lines.
    """

    def __init__(self, stage: str, first_step: int, last_step: int, enabled: bool, every_seconds: float = 5.0) -> None:
        self.stage, self.last_step, self.every_seconds = stage, last_step, every_seconds
        self.enabled = enabled
        self.started, self.first_step = time.monotonic(), first_step
        self.last_said = 0.0
        self.bar: Progress | None = None
        if enabled and sys.stdout.isatty():
            console = Console()
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[text]}"), console=console
            )
            self.bar.start()
            self.task = self.bar.add_task(stage, total=last_step, completed=first_step, text="")

    def update(self, step: int, text: str) -> None:
        """Show that ``step`` is done; ``text`` holds loss and speed."""
        if not self.enabled:
            return
        left = self.time_left(step)
        line = f"step {step}/{self.last_step}  {text}  {clock(left)} left"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, text=line)
            return
        now = time.monotonic()
        if now - self.last_said >= self.every_seconds or step == self.last_step:
            self.last_said = now
            say(f"[{self.stage}] {line}")

    def time_left(self, step: int) -> float:
        """Seconds until the last step at the mean speed of this attempt."""
        done = step - self.first_step
        return (time.monotonic() - self.started) / done * (self.last_step - step) if done else 0.0

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
