"""A distillation of videos in a bucket and on a web server has the losses of the one of local files, whatever the servers do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from launching import launch, losses, metrics
from object_servers import ObjectServer, fill_bucket
from shrinking import RECIPE

moto_server = pytest.importorskip("moto.server")
SECRET = "c0ffee0ddba11"
#: Everything is fetched again in each epoch.
REMOTE = ["data.manifest=s3://lists/mixed.txt", "data.remote.cache_gib=0"]


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
