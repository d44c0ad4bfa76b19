"""A distillation of videos in a bucket and on a web server has the losses of the one of local files, whatever the servers do."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from launching import launch, losses, metrics
from mvd_ds.config.base import without_secrets
from object_servers import ObjectServer, fill_bucket
from shrinking import RECIPE

moto_server = pytest.importorskip("moto.server")
SECRET = "c0ffee0ddba11"
MANIFEST = "data.manifest=s3://lists/mixed.txt"
#: Everything is fetched again in each epoch.
REMOTE = [MANIFEST, "data.remote.cache_gib=0"]


class Servers:
    """A bucket and a web server, with faults in front of both."""

    def __init__(self, folder: Path, lists: Path) -> None:
        self._moto = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        port = self._moto.get_host_and_port()[1]
        self.web = ObjectServer(folder)
        rows = [row.split(" ") for row in (folder / "train.txt").read_text().splitlines() if not row.startswith("#")]
        # Every other video of the bucket is on the web server, by a signed address.
        self.signed = [f"{self.web.address}/{row[0]}?sig={SECRET}" for row in rows[1::2]]
        for row, address in zip(rows[1::2], self.signed, strict=True):
            row[0] = address
        (lists / "mixed.txt").write_text("# root: s3://videos\n" + "".join("\t".join(row) + "\n" for row in rows))
        fill_bucket(port, "videos", folder)
        fill_bucket(port, "lists", lists)
        self.bucket = ObjectServer(Path("/nowhere"), behind=port)

    @property
    def both(self) -> tuple[ObjectServer, ObjectServer]:
        """The servers that the run sees."""
        return self.web, self.bucket

    def end(self) -> None:
        """End all of them."""
        for server in self.both:
            with suppress(OSError):
                server.kill()
        self._moto.stop()


@pytest.fixture
def servers(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Servers of the sample set; the environment leads to them, and has the credentials."""
    (tmp_path / "lists").mkdir()
    found = Servers(videos, tmp_path / "lists")
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.bucket.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield found
    found.end()


def after(run: Path, step: int, act: Callable[[], object]) -> None:
    """Call ``act`` when ``run`` has done ``step`` steps."""

    def wait() -> None:
        while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < step:
            time.sleep(0.02)
        act()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.launch
def test_losses_are_those_of_local_files_though_servers_fail_and_restart(
    servers: Servers, two_processes: Path, shrunk: list[str], tmp_path: Path
) -> None:
    run, seen = tmp_path / "run", {server: set[str]() for server in servers.both}
    for server in servers.both:

        def first(path: str, mark: str, known: set[str] = seen[server]) -> bool:
            return path.partition("?")[0].endswith(".mp4") and f"{mark}{path}" not in known and not known.add(f"{mark}{path}")

        server.faults.status = lambda path, first=first: 500 if first(path, "status") else 0
        server.faults.cut = lambda path, first=first: first(path, "cut")
        server.faults.bytes_per_second = lambda path: 1_000_000

    def restart() -> None:
        for server in servers.both:
            server.kill()
        time.sleep(2)
        for server in servers.both:
            server.start()

    after(run, 3, restart)
    done = launch(2, "distill", RECIPE, *shrunk, *REMOTE, "optimizer.ema_decay=0.9", f"run.output={run}")
    for name in {name for line in metrics(run) for name in line if name.startswith("loss/")}:
        assert losses(run, name) == losses(two_processes, name)
    assert all(len(known) == 64 for known in seen.values()), "each of 32 videos failed once and was cut short once"
    assert "s3://videos" in done.stdout and "fetched whole" in done.stdout
    kept = [
        path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml", ".txt")
    ]
    assert SECRET not in done.stdout + done.stderr and not any(SECRET.encode() in content for content in kept)


@pytest.mark.nightly
@pytest.mark.launch
def test_objects_that_are_refused_missing_or_cut_short_for_ever_are_replaced_and_named(
    servers: Servers, shrunk: list[str], tmp_path: Path
) -> None:
    run, told = tmp_path / "run", ["the server refuses access", "no such object", "before all bytes came"]
    refused, missing, cut = (address.removeprefix(servers.web.address) for address in servers.signed[4:7])
    servers.web.faults.status = lambda path: {refused: 403, missing: 404}.get(path, 0)
    servers.web.faults.cut = lambda path: path == cut
    settings = ["data.remote.deadline_seconds=4", "data.max_bad_share=0.2", f"run.output={run}"]
    done = launch(2, "distill", RECIPE, *shrunk, *REMOTE, *settings)
    named = json.loads((run / "status.json").read_text())["replaced_videos"]
    for address, reason in zip(servers.signed[4:7], told, strict=True):
        (fault,) = (fault for fault in named if fault.startswith(f"{without_secrets(address)}: "))
        assert reason in fault
    assert len(metrics(run)) == 20 and SECRET not in done.stdout + done.stderr


@pytest.mark.nightly
@pytest.mark.launch
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("gone", "its server is at fault"),
        ("cut", "its server is at fault"),
        ("403", "20 videos in a row cannot be read"),
        ("full", "No space left on device"),
    ],
)
def test_what_fails_for_good_ends_the_run_in_a_line_in_time(
    servers: Servers, shrunk: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    run, failed = tmp_path / "run", [time.monotonic()]

    def fail() -> None:
        failed[0] = time.monotonic()
        for server in servers.both:
            if fault == "gone":
                server.kill()
            elif fault == "cut":
                server.faults.cut = lambda path: True
            elif fault == "403":
                server.faults.status = lambda path: 403

    settings = [*REMOTE, "data.remote.deadline_seconds=4", "data.max_bad_share=1", f"run.output={run}"]
    with small_disk(tmp_path / "disk") if fault == "full" else nullcontext():
        if fault == "full":
            monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "disk"))
            settings += ["data.remote.cache_gib=1"]
        else:
            after(run, 3, fail)
        done = launch(2, "distill", RECIPE, *shrunk, *settings, check=False)
    took = time.monotonic() - failed[0]
    assert done.returncode == 1 and len(metrics(run)) < 20
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # One of each process: both read, and neither waits for the other.
    assert 1 <= len(lines) <= 2 and any(told in line for line in lines), lines
    assert "Traceback" not in done.stdout and SECRET not in done.stdout + done.stderr
    # Three objects of 4 s and a look at another in 5, and what two processes take to end on a busy machine.
    assert took < 60 or fault == "full", took


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 64 KiB."""
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=False)
    if not mounted or mounted.returncode:
        pytest.skip("no disk can be mounted here: it needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
