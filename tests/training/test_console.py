"""The display of a stage shows a time left that can be believed, in lines that fit the terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from mvd_ds.training import console
from mvd_ds.training.console import Panel, StepProgress


@pytest.mark.parametrize(("start_seconds", "steps", "every"), [(0.0, 900, 10), (8.0, 500, 10), (60.0, 200, 5), (30.0, 5000, 99)])
def test_time_left_is_right_within_a_fifth_after_a_twentieth(
    monkeypatch: pytest.MonkeyPatch, start_seconds: float, steps: int, every: int
) -> None:
    """Steps of 0.3 s after a slow start, told every ``every`` steps."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    progress = StepProgress("stage", 100, 100 + steps, enabled=False)
    for step in range(every, steps + 1, every):
        now[0] = start_seconds + 0.3 * step
        left = progress.time_left(100 + step)
        if step >= steps / 20 and step > every:
            assert left == pytest.approx(0.3 * (steps - step), rel=0.2)


def test_lines_without_a_terminal_and_panel_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    progress = StepProgress("distill student", 0, 20, enabled=True, every_seconds=1000.0)
    for step in (5, 10, 20):
        progress.update(step, "loss 0.1")
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["[distill student] step 5/20", "[distill student] step 20/20"]
    assert lines[-1].endswith("0:00 left") and re.fullmatch(r"\d\d:\d\d:\d\d", lines[-1].split("  ")[1])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_panel_fits_the_terminal(width: int) -> None:
    terminal = Console(width=width, force_terminal=True, file=io.StringIO())
    panel = Panel("distill student", 0, 500, terminal)
    panel.show(100, "loss 0.2345 (image 0.123 video 0.112)  45 clips/s", "3:20")
    panel.close()
    shown = Console(width=width, file=io.StringIO())
    shown.print(panel.live.get_renderable())
    lines = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2 and "100/500 3:20 left" in lines[0] and "distill student" in lines[0] and "45 clips/s" in lines[1]
