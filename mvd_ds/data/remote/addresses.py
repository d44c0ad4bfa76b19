"""Addresses of files that are not on this machine: which are read, and how they are shown without what is secret in them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from mvd_ds.config.base import is_address, without_secrets
from mvd_ds.files import ConfigError, one_line


class Backend(NamedTuple):
    """The package that reads a protocol for fsspec, and the extra of this package that brings it."""

    module: str
    extra: str


BACKENDS = {
    "s3": Backend("s3fs", "s3"),
    "gs": Backend("gcsfs", "gs"),
    "az": Backend("adlfs", "az"),
    "http": Backend("aiohttp", "http"),
    "https": Backend("aiohttp", "http"),
    "hf": Backend("huggingface_hub", "hub"),
}
"""Protocols that are read, all through fsspec; FFmpeg opens none of them, nor any other."""
WEB = frozenset(("http", "https"))
"""Protocols whose addresses are escaped by ``%`` and may have a query, and whose servers do not tell what is in a folder."""
STARTS = tuple(f"{scheme}://" for scheme in BACKENDS)
"""Beginnings of the addresses that are read."""

_REMOTE = re.compile(f"(?P<scheme>{'|'.join(BACKENDS)})://")
_PROTOCOL = re.compile(r"(?:^|/)([A-Za-z][A-Za-z0-9+.-]+)(?:,[^/:]*)?:")
"""The beginning of an address in a path: ``concat:``, or ``subfile,,start,0,end,9,,:`` with FFmpeg's options."""


_ESCAPED = (("%", "%25"), ("#", "%23"), ("?", "%3F"))
"""Characters of names that mean something else in an address of the web, in the order in which they are escaped."""
_SIGNED = re.compile(r"\.\w+\?[\w.~-]+=")
"""The beginning of a query in a name: ``a.mp4?sig=``."""


def is_remote(path: object) -> bool:
    """Return whether ``path`` is an address of a protocol that is read."""
    return isinstance(path, str) and _REMOTE.match(path) is not None


def place_of(text: str) -> Path | str:
    """Return what a command line names: an address as it is, anything else as a path.

    Raises:
        ConfigError: for an address with secrets in it, or of a protocol that is not read.
    """
    if not is_address(text):
        return Path(text).expanduser()
    shown = one_line(without_secrets(text), 200)
    if shown != one_line(text, 200):
        raise ConfigError(f"{shown}: an address holds no user, password or query; credentials belong into the environment")
    if not is_remote(text):
        raise ConfigError(f"{shown}: {scheme_of(text)}: is no protocol that is read ({' '.join(BACKENDS)})")
    return text


def path_here(text: str) -> Path:
    """Return what a command line names, where files of this machine alone are read.

    Raises:
        ConfigError: for an address.
    """
    place = place_of(text)
    if isinstance(place, str):
        raise ConfigError(f"{one_line(place, 200)}: files of this machine alone are read here; fetch it first")
    return place


def scheme_of(address: str) -> str:
    """Return the protocol of a remote address: ``s3``."""
    return address.partition("://")[0]


def joined(root: str, name: str) -> str:
    """Return the path or address of ``name`` below ``root``, or ``name`` itself where it says all.

    A name is that of a file, as it is: in an address of the web its ``%``, ``#`` and ``?`` are escaped, unless it has a query.
    """
    if is_remote(name):
        return name
    if not is_remote(root):
        return os.path.join(root, name)
    if scheme_of(root) in WEB and not _SIGNED.search(name):
        for mark, escaped in _ESCAPED:
            name = name.replace(mark, escaped)
    return name if os.path.isabs(name) else f"{name_in(root).rstrip('/')}/{name}"


def name_below(root: str, address: str) -> str:
    """Return the name that `joined` makes ``address`` of, or ``address`` itself where it is not below ``root``."""
    name = address.removeprefix(f"{name_in(root).rstrip('/')}/") if is_remote(root) else address
    if scheme_of(root) in WEB and "?" not in name:
        for mark, escaped in reversed(_ESCAPED):
            name = name.replace(escaped, mark)
    return name if joined(root, name) == address else address


def absolute(place: str) -> str:
    """Return a path from the root of the file system, or an address as it is."""
    return place if is_remote(place) else os.path.abspath(place)


def folder_of(address: str) -> str:
    """Return the address that names beside ``address`` are relative to; what a query signs is for one object alone."""
    return name_in(address).rpartition("/")[0]


def name_in(address: str) -> str:
    """Return a remote address without its query, which those of the web have; its end is the object's extension."""
    return address.partition("?")[0] if scheme_of(address) in WEB else address


def why_no_protocol(path: str) -> str:
    """Return a few words on the protocol that ``path`` seems to name, none of which is ever opened; empty if it names none."""
    found = _PROTOCOL.search(path)
    if found is None:
        return ""
    name = one_line(found[1], 20)
    if name in BACKENDS:
        return f"and {name}: addresses are read as a manifest, or in one, alone"
    return f"and {name}: is no protocol that is read ({' '.join(BACKENDS)})"
