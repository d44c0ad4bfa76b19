"""Python's fork server: a process that has imported much and does nothing, from which workers are forked."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from multiprocessing import util
from typing import Any

#: Longest path that a socket may have, and what Python's has beyond ``TMPDIR``.
_SOCKET_BYTES, _OWN_BYTES = 107, len("/pymp-12345678/listener-12345678")


def forkserver_context(preload: Sequence[str]) -> Any:
    """multiprocessing's context whose server imports ``preload``.

    Its sockets lie in ``TMPDIR``, and in ``/tmp`` where that is too long for them, as a scheduler's or a test's may be.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    if len(os.fsencode(tempfile.gettempdir())) + _OWN_BYTES > _SOCKET_BYTES:
        usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
        try:
            util.get_temp_dir()  # made once, and removed at the end of this process
        finally:
            tempfile.tempdir = usual
    return context
