"""The look at the first videos of a manifest: a wrong root, encoding or server is found before training begins."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mvd_ds.config.base import without_secrets
from mvd_ds.data.manifests.clip_refs import ClipRefs
from mvd_ds.data.manifests.parsing import is_utf8, not_utf8
from mvd_ds.data.remote.addresses import is_remote
from mvd_ds.data.remote.store import FetchError, Store
from mvd_ds.files import ConfigError, one_line

_LOOKED_AT = 32


def check_some_exist(refs: ClipRefs, name: str) -> None:
    """Refuse a manifest of which nothing exists: the root is wrong then. Single missing files are replaced in training.

    Args:
        refs: the videos.
        name: the manifest, for messages.

    Raises:
        ConfigError: if none of the first videos is there, or the server of the first one does not answer for it.
    """
    looked_at = map(refs.location, range(min(_LOOKED_AT, len(refs))))
    files = [location if isinstance(location, str) else location.path for location in looked_at]
    if is_remote(files[0]):
        _check_answers(files[0], name)
        return
    _check_encoding(files, name)
    if not any(map(os.path.exists, files)):
        first = one_line(without_secrets(files[0]), 300)
        raise ConfigError(
            f"{one_line(name)}: none of the first {len(files)} videos exists, for example {first}; "
            f"paths are relative to {one_line(refs.root)}: set data.root to the folder that holds them"
        )


def _check_answers(address: str, name: str) -> None:
    """Refuse a manifest whose first object no server answers for; one that is missing alone is replaced in training."""
    try:
        Store().state(address)
    except FetchError as error:
        if not (error.lasting and "no such object" in str(error)):
            raise ConfigError(f"{one_line(name)}: {one_line(without_secrets(address), 300)}: {error}") from None


def _check_encoding(files: Sequence[str], shown: str) -> None:
    """Refuse a list whose names are not UTF-8 where the files' names are: an editor wrote it in another encoding."""
    for file in files:
        name = os.fsencode(file)
        if is_utf8(name) or os.path.exists(file):
            continue
        if os.path.exists(name.decode("cp1252", errors="replace")):
            raise ConfigError(f"{one_line(shown)}: {not_utf8(one_line(shown))}")
