"""The origin of numbers: machine, versions and commit; and, for every attempt at a run, all that it was started with."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import mvd_ds
from mvd_ds.config import LearningRecipe, dump
from mvd_ds.files import looks_like_credential, write_json, write_text
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.run_folder import RunFolder

#: Longer diffs are cut: they are files that someone forgot to ignore.
DIFF_CHARACTERS = 1_000_000
PACKAGES = ("torch", "deepspeed", "timm", "decord", "av", "numpy", "scikit-learn", "safetensors", "flash-attn")


def machine() -> dict[str, Any]:
    """Return system, processor, cores, memory in GiB and GPUs of this machine."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory_gib, 1),
        "gpus": gpus,
    }


def versions() -> dict[str, str]:
    """Return the versions of python, mvd_ds with its commit, and the installed packages that touch numbers."""
    found = {"python": platform.python_version(), "mvd_ds": mvd_ds.__version__}
    commit = _commit()
    if commit:
        found["commit"] = commit
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_provenance(
    folder: RunFolder,
    attempt: int,
    recipe: LearningRecipe,
    cluster: Cluster,
    engine: dict[str, Any],
    contents: Mapping[str, str],
    groups: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write ``attempts/attempt-NNN.json``, and a ``.diff`` if files differ from the commit. Collective.

    Args:
        folder: the run's folder.
        attempt: its number, from 1.
        recipe: the resolved recipe.
        cluster: the processes of the run.
        engine: the dict that DeepSpeed was given.
        contents: digests of the run's inputs by setting.
        groups: rows on the optimizer's parameter groups.

    Raises:
        ConfigError: on every rank, if it cannot be written.
    """
    ranks = cluster.gather(_rank(cluster))
    if not cluster.is_main:
        with cluster.together():
            return
    path = folder.attempt(attempt)
    values = {
        "attempt": attempt,
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.argv],
        "folder": os.getcwd(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("NCCL_", "OMP_", "DS_", "TORCH_")) and not looks_like_credential(name, value)
        },
        "versions": versions(),
        "machine": machine(),
        "ranks": ranks,
        "digests": dict(contents),
        "recipe": dump(recipe),
        "engine": engine,
        "parameter_groups": list(groups),
    }
    with cluster.together():
        path.parent.mkdir(exist_ok=True)
        changes = _diff()
        if changes:
            write_text(path.with_suffix(".diff"), changes)
        write_json(path, values)


def _rank(cluster: Cluster) -> dict[str, Any]:
    """Return where this rank runs: host, process, device and driver."""
    cuda = cluster.device.type == "cuda"
    return {
        "rank": cluster.rank,
        "host": platform.node(),
        "pid": os.getpid(),
        "device": torch.cuda.get_device_name(cluster.device) if cuda else "cpu",
        "driver": _driver() if cuda else "",
    }


def _driver() -> str:
    """Return the version of NVIDIA's driver and of the CUDA that torch was built for."""
    try:
        driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        driver = "unknown driver"
    return f"{driver}; CUDA {torch.version.cuda}"


def _diff() -> str:
    """Return the output of ``git diff`` against the commit; empty outside a checkout."""
    root = Path(mvd_ds.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        changes = _git(root, "diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return ""
    return changes if len(changes) <= DIFF_CHARACTERS else f"{changes[:DIFF_CHARACTERS]}\n... cut\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """Return the short commit of the checkout, with a word if files differ from it; empty outside a checkout."""
    root = Path(mvd_ds.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit} with local changes" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
