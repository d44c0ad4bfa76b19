"""Reads of remote objects through fsspec: by ranges, tried again with growing pauses until a deadline."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import TypeVar

from mvd_ds.config.base import without_secrets
from mvd_ds.data.remote.addresses import scheme_of
from mvd_ds.data.remote.clients import (
    LISTED,
    MISTAKES,
    ObjectState,
    ReplacedError,
    content_of,
    is_folder,
    names_in,
    range_of,
    state_of,
)
from mvd_ds.files import ConfigError, one_line

PIECE_BYTES = 4 << 20
"""Most bytes of one request: so much of each object in flight is in memory, and so much is lost by a connection that breaks."""
DEADLINE_SECONDS = 60.0
"""Time for one object where no recipe says another, as for manifests."""
_PROBE_BYTES = 1 << 16
"""So much of an object shows whether its server gives any: one that tells sizes may send no bodies, or end them early."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 5.0
_LEAST_ATTEMPT_SECONDS = 5.0
_SECRET = re.compile(r"authorization|signature|credential|secret|token|bearer|password|access.?key|[?&]\w+=", re.IGNORECASE)
"""What stands beside secrets in the texts of clients: such a text is not told."""
_RETRIED = frozenset((408, 425, 429))
"""Answers of the 400s that say "later"; others of them stay as they are."""
_MISSING, _CUT = "no such object", "the connection ended before all bytes came"
_CUT_SHORT = frozenset(("ClientPayloadError", "IncompleteReadError", "ResponseStreamingError", "EOFError"))
"""What clients (aiohttp, botocore) and ``range_of`` raise then."""
Result = TypeVar("Result")


class FetchError(Exception):
    """An object that cannot be read; the message says why in one line and does not name the object.

    Attributes:
        lasting: the server refuses this object, and will again; False: it did not answer as it should until the deadline.
    """

    def __init__(self, reason: str, lasting: bool) -> None:
        super().__init__(reason)
        self.lasting = lasting


def is_missing(error: FetchError) -> bool:
    """Return whether the server says that there is no such object."""
    return error.lasting and str(error) == _MISSING


class Store:
    """Objects by address. A store has no state beside its deadline; the connections belong to the process."""

    def __init__(self, deadline_seconds: float = DEADLINE_SECONDS, setting: str = "") -> None:
        """Keep the time that one object may take, all tries together, and the setting that says it, if one does."""
        self.deadline_seconds, self._setting = deadline_seconds, setting

    @property
    def _waited(self) -> str:
        return f"for {self.deadline_seconds:g} s" + (f" ({self._setting})" if self._setting else "")

    def state(self, address: str, seconds: float | None = None) -> ObjectState:
        """Return size and mark of an object; ``seconds`` is the deadline if it is another one than the store's.

        Raises:
            FetchError: if the server does not tell.
            ConfigError: if the backend is not installed.
        """
        return self._tried(partial(state_of, address), seconds)

    def pieces(
        self, address: str, start: int, end: int, ends: float | None = None, state: ObjectState | None = None
    ) -> Iterator[bytes]:
        """Yield the bytes ``start`` to ``end - 1`` of an object, at most 4 MiB at a time, until ``ends`` (``time.monotonic``).

        ``state`` is the one that the object must have still, where its server marks what it sends.

        Raises:
            FetchError: if one of them cannot be had in time.
            ConfigError: if the backend is not installed, or the server knows no ranges.
        """
        ends = time.monotonic() + self.deadline_seconds if ends is None else ends
        for first in range(start, end, PIECE_BYTES):
            read = partial(range_of, address, first, min(first + PIECE_BYTES, end), state)
            yield self._tried(read, ends - time.monotonic())

    def probe(self, address: str, seconds: float) -> None:
        """Read the beginning of an object.

        Raises:
            FetchError: if its server does not give it in ``seconds``.
            ConfigError: if the backend is not installed, or the server knows no ranges.
        """
        ends = time.monotonic() + seconds
        size = self.state(address, seconds).size
        for _ in self.pieces(address, 0, min(size, _PROBE_BYTES), ends):
            pass

    def content(self, address: str) -> bytes:
        """Return all bytes of a small object, such as a manifest.

        Raises:
            FetchError: if it cannot be had in time.
            ConfigError: if the backend is not installed.
        """
        return self._tried(partial(content_of, address))

    def is_there(self, address: str) -> bool:
        """Return whether there is such an object.

        Raises:
            FetchError: if the server does not say.
            ConfigError: if the backend is not installed.
        """
        try:
            self.state(address)
        except FetchError as error:
            if not is_missing(error):
                raise
            return False
        return True

    def is_folder(self, address: str) -> bool:
        """Return whether objects are below an address; of a web server, which cannot tell, False.

        Raises:
            FetchError: if the server does not say.
            ConfigError: if the backend is not installed.
        """
        try:
            return scheme_of(address) in LISTED and self._tried(partial(is_folder, address))
        except FetchError as error:
            if not is_missing(error):
                raise
            return False

    def names(self, address: str) -> list[tuple[str, ObjectState | None]]:
        """Return the last part of the name of everything in a folder, sorted, and of objects their state.

        Raises:
            FetchError: if the server does not tell.
            ConfigError: if the backend is not installed.
        """
        return self._tried(partial(names_in, address))

    def _tried(self, call: Callable[[float], Result], seconds: float | None = None) -> Result:
        """Return what ``call`` returns, which is given the seconds that it may take; try again until ``seconds`` are over."""
        seconds = self.deadline_seconds if seconds is None else seconds
        ends, pause, chance = time.monotonic() + seconds, _FIRST_PAUSE_SECONDS, Random()
        while True:
            try:
                # A third: a connection that is dead without having said so leaves time for two others.
                return call(max(min(max(seconds / 3, _LEAST_ATTEMPT_SECONDS), ends - time.monotonic()), 0.1))
            except (ConfigError, AttributeError, TypeError):  # a mistake is not the server's
                raise
            except Exception as error:
                reason, lasting = judge(error)
            # Not all clients of a server that comes back at the same time.
            wait = pause * chance.uniform(0.5, 1.0)
            if lasting or time.monotonic() + wait >= ends:
                told = (
                    reason if lasting else f"{reason}, for {self.deadline_seconds:g} s{self._setting and f' ({self._setting})'}"
                )
                raise FetchError(told, lasting)
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def judge(error: BaseException) -> tuple[str, bool]:
    """Return why a read failed, in words without secrets, and whether it will fail again."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:  # fsspec says so of every answer to a HEAD
        error = error.__cause__
    if isinstance(error, ReplacedError):
        return "another object is in its place since this run first asked for it", True
    status = _status_of(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return _MISSING, True
    if isinstance(error, PermissionError) or status in (401, 403):
        return "the server refuses access; credentials are those that its client finds in the environment", True
    if "Credentials" in type(error).__name__:
        return "no credentials in the environment", True
    if status is not None:
        return f"the server answers {status}", 400 <= status < 500 and status not in _RETRIED
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "no answer in time", False
    if type(error).__name__ in _CUT_SHORT:
        return _CUT, False
    kind, text = type(error).__name__, _words_of(error)
    shown = kind if not text or _SECRET.search(text) else f"{kind}: {text}"
    return one_line(shown, 160), kind in MISTAKES or text.startswith("Invalid endpoint")


def _words_of(error: BaseException) -> str:
    """Return what an error says, without what is secret in addresses; of an answer of S3 its code alone."""
    response = getattr(error, "response", None)
    if isinstance(response, dict) and isinstance(response.get("Error"), dict):
        return str(response["Error"].get("Code", ""))
    return without_secrets(error)


def _status_of(error: BaseException) -> int | None:
    """Return the status of an HTTP answer, wherever the library keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        response = response.get("ResponseMetadata", {})
        status = response.get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(response, "status_code", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and 100 <= status < 600 else None
