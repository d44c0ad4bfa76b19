"""Printing of a page to PDF by an installed browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from mvd_ds.files import ConfigError, one_line, written_aside

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names of browsers that are tried, the first first."""
SECONDS = 120
"""Time that a browser may take."""


def find_browser() -> str:
    """Return the path of a browser that prints without a screen.

    Raises:
        ConfigError: if none is installed.
    """
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    raise ConfigError(
        "--pdf: it takes chromium or google-chrome, and neither is here; `apt-get install chromium`, or print report.html"
    )


def write_pdf(browser: str, page: Path, target: Path) -> None:
    """Print ``page`` to ``target``, whole or not at all.

    Raises:
        ConfigError: if the browser fails.
    """
    command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"]
    if os.geteuid() == 0:  # Chromium refuses its sandbox to root; the page is our own and asks for nothing
        command.append("--no-sandbox")
    with written_aside(target) as aside:
        command += [f"--print-to-pdf={aside.resolve()}", page.resolve().as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"--pdf: {browser} failed: {one_line(error, 200)}") from None
        if done.returncode or not aside.stat().st_size:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ConfigError(f"--pdf: {browser} ended with {done.returncode}: {one_line(last, 200)}")
