"""A watch of the numbers that fall when features, or assignments to prototypes, collapse."""

from __future__ import annotations

from collections.abc import Mapping

#: Endings of watched metrics, and whether 1 minus the metric is what falls.
WATCHED = {"student/effective_rank": False, "target/variance_": False, "_usage": False, "_entropy": True, "_deviation": False}
#: Beginnings of the metrics that an ending is watched in. Targets that are standardised by running statistics have variance 1
#: whatever the features do: these statistics tell.
OF = {"_usage": "prototypes/", "_entropy": "prototypes/", "_deviation": "statistics/"}


class CollapseWatch:
    """A watch that says once, in a line, that a number has fallen below a share of the largest that it has had since
    the run was started or resumed.

    Watched are the effective rank of the student's features, the variance of targets over tokens and the deviation that running
    standardisation takes from it, how many prototypes are in use (the entropy of the mean assignment), and how much single
    assignments say (what their entropy lacks of its largest value).

    Args:
        share: ``run.collapse_share``; at 0 nothing is said.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.largest: dict[str, float] = {}
        self.fallen: set[str] = set()

    def look(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Return a line for every number of ``metrics`` that has fallen since the last look."""
        lines = []
        for name, metric in metrics.items():
            kinds = [reversed_ for part, reversed_ in WATCHED.items() if _is_of(name, part)]
            if not kinds:
                continue
            value = 1 - metric if kinds[0] else metric
            largest = self.largest[name] = max(value, self.largest.get(name, value))
            if value >= self.share * largest:
                self.fallen.discard(name)
                continue
            if name not in self.fallen:
                what = f"1 - {name}" if kinds[0] else name
                lines.append(
                    f"step {step}: {what} is {value:.3g}, below run.collapse_share {self.share:g} of the largest value since "
                    f"this start, {largest:.3g}: features collapse; go back to a checkpoint before that with a lower "
                    "optimizer.base_lr, or a teacher that moves less (optimizer.ema_decay)"
                )
            self.fallen.add(name)
        return lines


def _is_of(name: str, part: str) -> bool:
    """Return whether a metric is the watched one, or of the watched kind."""
    return name.startswith(OF.get(part, part)) and (part not in OF or name.endswith(part))
