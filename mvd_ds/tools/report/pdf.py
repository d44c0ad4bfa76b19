"""Printing of a page to PDF by an installed browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from mvd_ds.files import ConfigError, one_line

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 120


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
    """Print ``page`` to ``target``, aside and then renamed.

    Raises:
        ConfigError: if the browser fails.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}.pdf")
    command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={aside}"]
    if os.geteuid() == 0:  # Chromium refuses its sandbox to root; the page is our own and asks for nothing
        command.append("--no-sandbox")
    try:
        done = subprocess.run([*command, page.resolve().as_uri()], capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"--pdf: {browser} failed: {error}") from None
    if done.returncode or not aside.is_file():
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ConfigError(f"--pdf: {browser} ended with {done.returncode}: {one_line(last, 200)}")
    os.replace(aside, target)
