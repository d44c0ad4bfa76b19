"""``prove``: run every part in a process of its own and in its time, keep what it found, and write the page.

A part that hangs, crashes or runs out of its time is ended and named, and the others go on. Started again with the same
output, it goes on with the parts that have no result yet for this machine and these versions.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mvd_ds.files import ConfigError, did_you_mean, read_json, write_json
from mvd_ds.tools.prove.page import write_page
from mvd_ds.tools.prove.parts import PARTS, Part
from mvd_ds.training.console import say

LEAST_SECONDS = 10.0
"""Seconds without which a part is not begun."""
FINAL = ("passed", "failed", "not possible here")
"""States of a part that are results; parts in another state run again."""


def prove(minutes: float, output: Path, device: str, only: list[str], again: bool) -> int:
    """Run the parts and return 0 where nothing failed, else 1.

    Args:
        minutes: time for all parts together.
        output: JSON file; the page stands beside it.
        device: ``auto`` or ``cpu``.
        only: names of parts; empty: all.
        again: whether results that are there are made again.

    Raises:
        ConfigError: for a part that is not known, or an output that cannot be written.
    """
    for name in only:
        if name not in PARTS:
            raise ConfigError(f"--only {name}: not a part; {did_you_mean(name, PARTS, 'there are ' + ', '.join(PARTS))}")
    result = _begun(output, device, again)
    deadline = time.monotonic() + 60 * minutes
    for name, part in PARTS.items():
        is_done = result["parts"].get(name, {}).get("state") in FINAL
        if (only and name not in only) or (is_done and not only):
            continue
        seconds = min(60 * minutes * part.share, deadline - time.monotonic())
        if seconds < LEAST_SECONDS:
            result["parts"][name] = {"state": "not begun", "note": "no time was left; the same command goes on here"}
        else:
            say(f"{name}: {part.title} (at most {seconds:.0f} s)")
            result["parts"][name] = _run_part(name, part, device, seconds, output)
        say(f"  {_summary(result['parts'][name])}")
        write_json(output, result)
    page = output.with_suffix(".html")
    write_page(result, page)
    say(f"{output} and {page}")
    return int(any(part["state"] in ("failed", "crashed") for part in result["parts"].values()))


def _begun(output: Path, device: str, again: bool) -> dict[str, Any]:
    """Return the results in ``output`` if they are of this machine and these versions, else none."""
    from mvd_ds.training.reporting.provenance import machine, versions

    origin = {"device": device, "machine": machine(), "versions": versions()}
    if output.exists() and not again:
        found = read_json(output)
        if isinstance(found, dict) and isinstance(found.get("parts"), dict):
            if found.get("versions") == origin["versions"] and found.get("device") == device:
                return found
            say(f"{output}: was made by other versions or for another device; every part runs again")
    output.parent.mkdir(parents=True, exist_ok=True)
    return {"command": "prove", **origin, "parts": {}}


def _run_part(name: str, part: Part, device: str, seconds: float, output: Path) -> dict[str, Any]:
    """Return what a part found, its state and its seconds."""
    answer, log = output.with_suffix(f".{name}.json"), output.with_suffix(f".{name}.log")
    answer.unlink(missing_ok=True)
    started = time.monotonic()
    with log.open("wb") as stream:
        processes = [_start(name, device, seconds, answer, stream, group) for group in _groups(part, device)]
        codes = _wait(processes, seconds)
    found = read_json(answer) if answer.exists() else {"checks": [], "measured": {}, "skipped": {}}
    answer.unlink(missing_ok=True)
    state, note = _state(found, codes, seconds, log)
    return {"state": state, "note": note, "seconds": time.monotonic() - started, **found}


def _groups(part: Part, device: str) -> list[dict[str, str]]:
    """Return what the environment of each process of a part says of its group; nothing for a process on its own."""
    import torch

    world = torch.cuda.device_count() if part.in_group and device != "cpu" else 1
    if world < 2:
        return [{}]
    port = str(random.SystemRandom().randrange(20000, 32000))
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def _start(name: str, device: str, seconds: float, answer: Path, log: Any, group: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process of a part, in a session of its own so that all its children can be ended with it."""
    command = [sys.executable, "-Wignore", "-m", "mvd_ds", "prove", "--part", name, "--answer", str(answer)]
    command += ["--device", device, "--seconds", f"{seconds:.1f}"]
    return subprocess.Popen(command, env={**os.environ, **group}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> list[int | None]:
    """Return the exit codes; None for processes that were ended because the time was over or another one had failed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            break
        time.sleep(0.1)
    codes = [process.poll() for process in processes]
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return codes


def _state(found: dict[str, Any], codes: list[int | None], seconds: float, log: Path) -> tuple[str, str]:
    failed = [check["name"] for check in found["checks"] if not check["passed"]]
    if any(codes):
        last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        return "crashed", f"exit code {next(code for code in codes if code)}: {last[:300]}; see {log}"
    if None in codes:
        return "out of time", f"ended after {seconds:.0f} s; what it had found by then is kept; see {log}"
    log.unlink(missing_ok=True)
    if failed:
        return "failed", f"{len(failed)} of {len(found['checks'])} checks failed: {', '.join(failed[:5])}"
    if not found["checks"] and not found["measured"]:
        return "not possible here", "; ".join(found["skipped"].values())
    return "passed", ""


def _summary(part: dict[str, Any]) -> str:
    checks = part.get("checks", [])
    counts = f"{sum(check['passed'] for check in checks)} of {len(checks)} checks passed" if checks else ""
    skipped = f"{len(part['skipped'])} could not be tried" if part.get("skipped") else ""
    return ", ".join(filter(None, (part["state"], counts, skipped, part.get("note", ""))))
