"""Programs that a test needs and this machine may not have: Debian packages, unpacked into a folder, never installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


class Unavailable(Exception):
    """Why a test cannot get what it needs here."""


def unpacked(packages: list[str], folder: Path) -> Path:
    """``folder`` with the files of ``packages`` and of those of their dependencies that are not installed here.

    Raises:
        Unavailable: without root, apt-get or a mirror.
    """
    if os.geteuid() != 0:
        raise Unavailable("needs root, for network namespaces and apt-get")
    if not shutil.which("apt-get"):
        raise Unavailable("needs apt-get, to download " + " ".join(packages))
    archives = folder / "archives"
    (archives / "partial").mkdir(parents=True)
    quiet = ["-qq", "-o", f"Dir::Cache::archives={archives}", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]
    command = ["apt-get", "install", "--download-only", "--no-install-recommends", "--reinstall", "-y", *quiet, *packages]
    done = _run(command)
    if done.returncode:
        _run(["apt-get", "update", "-qq"])
        done = _run(command)
    if done.returncode:
        raise Unavailable(f"apt-get cannot download {' '.join(packages)}: {done.stderr.strip().splitlines()[-1:]}")
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder / "files")], check=True)
    return folder / "files"


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"LC_ALL": "C"})
