"""Videos that could not be decoded: counted by name on every rank, and too many of them end the run on all ranks."""

from __future__ import annotations

from mvd_ds.config import ConfigError
from mvd_ds.training.cluster import Cluster


class VideoFaults:
    """The videos of this attempt that could not be decoded and were replaced, counted by name.

    Args:
        max_bad_share: largest share of replaced videos among those asked for.
    """

    def __init__(self, cluster: Cluster, max_bad_share: float) -> None:
        self.cluster, self.max_bad_share = cluster, max_bad_share
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

        Raises:
            ConfigError: on every rank, if more than ``max_bad_share`` of the videos asked for were replaced.
        """
        bad, asked = (sum(column) for column in zip(*self.cluster.gather((sum(self.counts.values()), self.asked)), strict=True))
        if bad > self.max_bad_share * asked:
            names = "; ".join(list(self.merged())[:3])
            raise ConfigError(
                f"step {step}: {bad} of {asked} videos could not be decoded, more than data.max_bad_share "
                f"{self.max_bad_share:g}; mend or remove them, or raise the share. The first: {names}"
            )
