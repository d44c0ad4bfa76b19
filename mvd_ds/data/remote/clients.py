"""Single questions to the clients behind fsspec.

The state of an object, its bytes, and what is in a folder; `store` asks again where an answer fails.
"""

from __future__ import annotations

import importlib.util
from functools import cache, partial
from typing import Any, NamedTuple

from mvd_ds.config.base import without_secrets
from mvd_ds.data.remote.addresses import BACKENDS, WEB, scheme_of
from mvd_ds.files import ConfigError, one_line

_MARKS = (
    *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest"),
    *("Last-Modified", "LastModified", "last_modified", "mtime", "blob_id", "oid"),
)
"""What clients call the mark of an object's content."""
LISTED = frozenset(BACKENDS) - WEB
"""Protocols whose servers tell what is in a folder."""
MISTAKES = frozenset(("ParamValidationError", "ProfileNotFound", "InvalidURL", "TooManyRedirects", "InvalidEndpoint"))
"""Errors of clients (botocore, aiohttp) that waiting does not mend."""


class ObjectState(NamedTuple):
    """The size of an object, and a mark that is another one when its content is; empty where its server gives none."""

    size: int
    tag: str


class ReplacedError(Exception):
    """Another object is where the one was that is read."""


def require_backend(address: str) -> None:
    """Refuse a protocol whose package is not installed, and what names nothing behind it once its slashes are off.

    Raises:
        ConfigError: naming it and the extra that brings it.
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        raise ConfigError(f"{one_line(address, 200)}//: names no bucket or server")
    module, extra = BACKENDS[scheme]
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{one_line(without_secrets(address), 200)}: {scheme}:// needs the package {module}: pip install 'mvd_ds[{extra}]'"
        )


@cache
def _filesystem(scheme: str) -> Any:
    """Return fsspec's file system for a protocol, which tries nothing again by itself."""
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        options["config_kwargs"] = {"retries": {"max_attempts": 1}, "read_timeout": 30, "connect_timeout": 10}
    system = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        system.retries = 1
    return system


def _ask(address: str, method: str, seconds: float, **named: Any) -> Any:
    """Call a method of the file system of ``address``, for at most ``seconds`` where it can be told."""
    require_backend(address.rstrip("/"))
    scheme = scheme_of(address)
    system = _filesystem(scheme)
    if getattr(system, "async_impl", False):
        named["timeout"] = seconds
    if scheme in WEB:
        address = address.replace("#", "%23")  # what follows would be dropped, and another object read
    return getattr(system, method)(address, **named)


def state_of(address: str, seconds: float) -> ObjectState:
    """Return size and mark of an object.

    Raises:
        ConfigError: if its server does not tell how large it is.
    """
    info = _ask(address, "info", seconds)
    if info.get("size") is None:
        raise ConfigError(f"{one_line(without_secrets(address), 200)}: its server does not tell how large it is")
    return _state_in(info)


def _state_in(info: dict[str, Any]) -> ObjectState:
    return ObjectState(int(info["size"]), " ".join(str(info[mark]) for mark in _MARKS if info.get(mark)))


def is_folder(address: str, seconds: float) -> bool:
    """Return whether objects are below an address."""
    return bool(_ask(address.rstrip("/"), "info", seconds)["type"] == "directory")


def names_in(address: str, seconds: float) -> list[tuple[str, ObjectState | None]]:
    """Return the last part of the name of everything in a folder, sorted, and of objects their state."""
    folder = address.rstrip("/")
    around = folder.rpartition("/")[2]
    found: dict[str, ObjectState | None] = {}
    for info in _ask(folder, "ls", seconds, detail=True):
        name = info["name"].rstrip("/").rpartition("/")[2]
        if info["type"] == "directory":
            found[name] = None
        elif not info["name"].endswith("/") and not (name == around and not info["size"]):  # a mark of the folder itself
            found[name] = _state_in(info)
    return sorted(found.items())


def content_of(address: str, seconds: float) -> bytes:
    """Return all bytes of an object."""
    return bytes(_ask(address, "cat_file", seconds))


def range_of(address: str, start: int, end: int, state: ObjectState | None, seconds: float) -> bytes:
    """Return the bytes ``start`` to ``end - 1`` of an object.

    Raises:
        EOFError: if fewer came.
        ReplacedError: if the server marks them as those of another object than the one of ``state``.
        ConfigError: if it sends whole objects.
    """
    scheme, tag = scheme_of(address), state.tag if state is not None else ""
    if scheme in WEB:
        # Compressed on the way, an object has no ranges.
        named = {"headers": {"Accept-Encoding": "identity"}, "raise_for_status": partial(_check_answer, tag)}
        content = _ask(address, "cat_file", seconds, start=start, end=end, **named)
    elif scheme == "s3":
        content = _range_in_bucket(address, start, end, tag, seconds)
    else:
        content = _ask(address, "cat_file", seconds, start=start, end=end)
    if len(content) > end - start:
        raise ConfigError(f"{one_line(without_secrets(address), 200)}: its server sends whole objects, not ranges of them")
    if len(content) < end - start:
        raise EOFError
    return bytes(content)


async def _check_answer(tag: str, answer: Any) -> None:
    """Refuse an answer of aiohttp whose marks are other ones than those in ``tag``."""
    if answer.status < 400:
        _check_marks(tag, [answer.headers[mark] for mark in ("ETag", "Last-Modified") if answer.headers.get(mark)])


def _check_marks(tag: str, marks: list[str]) -> None:
    # One that is the same is enough: several machines behind one name may each have an ETag of its own.
    if tag and marks and not any(mark.removeprefix("W/") in tag for mark in marks):
        raise ReplacedError


def _range_in_bucket(address: str, start: int, end: int, tag: str, seconds: float) -> Any:
    """Return a range of an object of S3, whose answer s3fs itself does not show."""
    from fsspec.asyn import sync

    system = _filesystem("s3")
    bucket, key, _ = system.split_path(address)

    async def read() -> Any:
        answer = await system._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")
        try:
            _check_marks(tag, [answer["ETag"]] if answer.get("ETag") else [])
            return await answer["Body"].read()
        finally:
            answer["Body"].close()

    return sync(system.loop, read, timeout=seconds)
