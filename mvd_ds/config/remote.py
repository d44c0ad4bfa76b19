"""Settings of videos that lie in an object store or on a web server."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mvd_ds.config.base import Positive, Settings


class RemoteSettings(Settings):
    """The fetching of objects of ``s3://``, ``gs://``, ``az://``, ``http(s)://`` and ``hf://``."""

    cache_gib: Annotated[float, Field(ge=0.0)] = 50.0
    """Most GiB of fetched objects on the node's disk, shared by all processes of the node; 0: none is kept. The folder is
    ``$MVD_DS_CACHE``, or ``mvd_ds-cache-UID`` in ``$TMPDIR``."""
    in_flight: Positive = 4
    """Objects that each loader process fetches at the same time; each takes 4 MiB of memory while it comes."""
    deadline_seconds: Annotated[float, Field(gt=0.0)] = 60.0
    """Seconds for one object, all tries together; later it counts as a broken video. Never more than three quarters of
    ``data.stall_seconds``."""
