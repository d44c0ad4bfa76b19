"""The objects below an address, of the servers that tell them."""

from __future__ import annotations

from collections.abc import Iterator

from mvd_ds.config.base import without_secrets
from mvd_ds.data.remote.addresses import scheme_of
from mvd_ds.data.remote.clients import LISTED, ObjectState
from mvd_ds.data.remote.store import FetchError, Store
from mvd_ds.files import ConfigError, one_line


def require_listed(address: str) -> None:
    """Refuse a folder of a web server, which tells nobody what is in it.

    Raises:
        ConfigError: with what to give in its place.
    """
    if scheme_of(address) not in LISTED:
        shown = one_line(without_secrets(address), 200)
        raise ConfigError(
            f"{shown}: a folder of a web server cannot be listed; give a manifest, with a line for each video and "
            f"'# root: {shown.rstrip('/')}'"
        )


def objects_below(address: str) -> Iterator[tuple[str, ObjectState]]:
    """Yield the name below ``address``, and the state, of every object in the folder and its folders; hidden ones are left out.

    Of one folder at a time the names are in memory.

    Raises:
        ConfigError: if there is no such folder, or its server cannot or does not list it.
    """
    require_listed(address)
    store, root = Store(), address.rstrip("/")
    left = [""]
    try:
        while left:
            below = left.pop()
            folders = []
            for name, state in store.names(f"{root}/{below}"):
                if name.startswith("."):
                    continue
                if state is None:
                    folders.append(f"{below}{name}/")
                else:
                    yield f"{below}{name}", state
            left += reversed(folders)
    except FetchError as error:
        raise ConfigError(f"{one_line(without_secrets(address), 200)}: {error}") from None
