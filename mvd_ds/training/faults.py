"""Videos that could not be decoded: counted by name on every rank, and too many of them end the run on all ranks."""

from __future__ import annotations

import re

from mvd_ds.config import ConfigError
from mvd_ds.training.cluster import Cluster

#: The path in ``path: reason``; the reason of one video may differ from one reading to the next.
_PATH = re.compile(r".*?\.\w+(?=: )", re.DOTALL)


class VideoFaults:
    """The videos of this attempt that could not be decoded and were replaced, counted by name.

    Args:
        max_bad_share: largest share of replaced videos among those asked for.
        videos: number of different videos; None: sources are mixed by weight, one may be asked for several times in a pass.
    """

    def __init__(self, cluster: Cluster, max_bad_share: float, videos: int | None = None) -> None:
        self.cluster, self.max_bad_share, self.videos = cluster, max_bad_share, videos
        self.counts: dict[str, int] = {}
        self.asked = 0

    def add(self, faults: list[str], asked: int) -> None:
        """Count the faults ("path: reason") of one batch for which ``asked`` videos were read."""
        self.asked += asked
        for fault in faults:
            self.counts[fault] = self.counts.get(fault, 0) + 1

    def merged(self) -> dict[str, int]:
        """Return the faults of all ranks, sorted by name. Collective."""
        total: dict[str, int] = {}
        for counts in self.cluster.gather(self.counts):
            for fault, times in counts.items():
                total[fault] = total.get(fault, 0) + times
        return dict(sorted(total.items()))

    def require_few(self, step: int) -> None:
        """Check that few enough videos were replaced up to ``step``. Collective.

        A broken video counts once, however often it is drawn again, also in place of another. What fails now and then, as files
        on a disk of the network do, is not added up over the passes: the share of readings that failed must be too high, too.

        Raises:
            ConfigError: on every rank, if more than ``max_bad_share`` of the videos asked for were replaced.
        """
        bad, asked = (sum(column) for column in zip(*self.cluster.gather((sum(self.counts.values()), self.asked)), strict=True))
        if bad <= self.max_bad_share * asked:
            return
        faults, what = self.merged(), "readings"
        if self.videos is not None:
            bad, asked, what = len({_path(fault) for fault in faults}), min(asked, self.videos), "videos"
        if bad > self.max_bad_share * asked:
            names = "; ".join(list(faults)[:3])
            raise ConfigError(
                f"step {step}: {bad} of {asked} {what} could not be decoded, more than data.max_bad_share "
                f"{self.max_bad_share:g}; `python -m mvd_ds prepare FOLDER OUT` drops broken videos, or raise the share. "
                f"The first: {names}"
            )


def _path(fault: str) -> str:
    found = _PATH.match(fault)
    return found[0] if found else fault
