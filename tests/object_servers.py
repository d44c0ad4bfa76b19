"""Servers of objects on this machine: HTTP with ranges, S3 by moto, and the faults that real ones have."""

from __future__ import annotations

import gzip
import http.client
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote


class Faults:
    """What a server does wrong, changed while it runs. ``status`` and ``cut`` are asked with the path of each request."""

    def __init__(self) -> None:
        self.status: Callable[[str], int] = lambda path: 0
        """Status to answer in place of the object; 0: none."""
        self.cut: Callable[[str], bool] = lambda path: False
        """Whether to end a body in the middle and close the connection."""
        self.bytes_per_second: Callable[[str], int] = lambda path: 0
        """Speed of a body; 0: any."""
        self.ranges = True
        """Whether ranges are understood."""
        self.compresses = False
        """Whether an object goes compressed, and then without ranges, to whoever takes that; as nginx does it."""
        self.requests: list[tuple[str, str, int]] = []
        """Method, path and bytes of the body of every answer."""

    @property
    def sent(self) -> int:
        """Bytes of all bodies."""
        return sum(size for method, _, size in self.requests if method == "GET")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    behind: int
    """Port of the server that answers; 0: files of ``folder``."""
    faults: Faults

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        status = self.faults.status(self.path)
        if status:
            self._answer(status, {}, b"")
        elif self.behind:
            self._answer(*self._forwarded())
        else:
            self._answer(*self._file())

    do_HEAD = do_PUT = do_GET

    def _file(self) -> tuple[int, dict[str, str], bytes]:
        path = self.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        if path.is_dir():
            return 200, {}, b"<!DOCTYPE html><html><body>Directory listing</body></html>"
        if not path.is_file():
            return 404, {}, b""
        data, wanted = path.read_bytes(), self.headers.get("Range")
        mark = {"ETag": f'"{path.stat().st_mtime_ns}-{len(data)}"', "Accept-Ranges": "bytes"}
        if self.faults.compresses and "gzip" in self.headers.get("Accept-Encoding", ""):
            return 200, {"ETag": f"W/{mark['ETag']}", "Content-Encoding": "gzip"}, gzip.compress(data)
        if wanted is None or not self.faults.ranges:
            return 200, mark, data
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = min(int(last or len(data)), len(data) - 1)
        return 206, {**mark, "Content-Range": f"bytes {first}-{end}/{len(data)}"}, data[int(first) : end + 1]

    def _forwarded(self) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=30)
        length = int(self.headers.get("Content-Length") or 0)
        connection.request(self.command, self.path, self.rfile.read(length), dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in ("transfer-encoding", "connection")}
        if self.command == "HEAD":
            body = bytes(int(headers.get("Content-Length", headers.get("content-length", 0))))
        connection.close()
        return answer.status, {name: value for name, value in headers.items() if name.lower() != "content-length"}, body

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        with suppress(ConnectionError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.faults.requests.append((self.command, self.path, len(body)))
            if self.command == "HEAD":
                return
            if self.faults.cut(self.path):
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                return
            self._send(body)

    def _send(self, body: bytes) -> None:
        speed = self.faults.bytes_per_second(self.path)
        step = max(speed // 20, 1) if speed else max(len(body), 1)
        for first in range(0, len(body), step):
            self.wfile.write(body[first : first + step])
            if speed:
                time.sleep(step / speed)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def __init__(self, port: int, handler: type[_Handler]) -> None:
        self.open: set[Any] = set()
        super().__init__(("127.0.0.1", port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)


class ObjectServer:
    """A server of the files of a folder, or in front of another server, that can be killed and started again at its port."""

    def __init__(self, folder: Path, behind: int = 0) -> None:
        self.faults = Faults()
        self._kind = type("Handler", (_Handler,), {"folder": folder, "behind": behind, "faults": self.faults})
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, at the same port as before."""
        self._server = _Server(self.port, self._kind)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def kill(self) -> None:
        """End at once: connections break, and others are refused."""
        self._server.shutdown()
        self._server.server_close()
        for request in list(self._server.open):
            with suppress(OSError):
                request.shutdown(2)

    def sockets(self) -> int:
        """Return the number of connections that are open."""
        return len(self._server.open)


def until_all_are_asked_for(count: int) -> Callable[[str], int]:
    """A ``Faults.status`` that gives no video before ``count`` of them are asked for: one after another is refused."""
    together, asked = threading.Barrier(count), set[str]()

    def wait(path: str) -> int:
        if path.endswith(".mp4") and path not in asked:
            asked.add(path)
            try:
                together.wait(timeout=60)
            except threading.BrokenBarrierError:
                return 403
        return 0

    return wait


def fill_bucket(port: int, bucket: str, folder: Path) -> None:
    """Make a bucket on an S3 server and put the files of a folder into it, by their paths below the folder."""
    put = partial(_put, port)
    put(f"/{bucket}", b"")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put(f"/{bucket}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def _put(port: int, path: str, content: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    # moto checks no signature, but takes the region from one.
    signed = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    connection.request("PUT", quote(path), content, {"Authorization": signed})
    answer = connection.getresponse()
    assert answer.status == 200, (path, answer.status, answer.read())
    connection.close()
