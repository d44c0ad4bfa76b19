"""Videos that ended the process that read them: not tried again, and as much a part of the stream as the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Barred(NamedTuple):
    """Videos that are not to be opened, with the reason; sent to a worker with its task."""

    everywhere: dict[int, str]
    """Video -> reason."""
    here: dict[tuple[int, int], str]
    """(position in the stream, video) -> reason."""

    def reason(self, position: int, video: int) -> str | None:
        """Why ``video`` must not be opened at ``position``; None if it may."""
        return self.everywhere.get(video) or self.here.get((position, video))


class QuarantinedVideo(NamedTuple):
    """A video that ended its reader, once."""

    video: int
    """Index in the manifest."""
    position: int
    """In the stream, of the first clip that was to be cut from it."""
    path: str
    reason: str
    from_step: int | None
    """Optimizer step from which no rank opens it any more; None until the ranks have agreed."""


class Quarantine:
    """The list, and the rule that keeps the stream the same for all ranks and after a restart.

    **Rule.** A video that ended its worker counts as bad at that place of the stream at once. Everywhere else it counts as
    bad from ``from_step`` on. All ranks settle that step together, at an agreement (log and save steps): it lies behind
    whatever any rank may have read ahead by then. The list is saved after an agreement, so a run that resumes from a
    checkpoint bars the same videos at the same places as the run that went on. A video that ends a second reader before
    ``from_step`` is a second entry.

    Args:
        clips_per_step: global batch, to know the step of a position; 0 if there are no steps (evaluation).
        lookahead_steps: steps that a rank may read ahead.
    """

    def __init__(self, clips_per_step: int = 0, lookahead_steps: int = 0) -> None:
        self._clips_per_step, self._lookahead = clips_per_step, lookahead_steps
        self.entries: list[QuarantinedVideo] = []

    def add(self, position: int, video: int, path: str, reason: str) -> None:
        """``video`` ended a worker while clips from ``position`` on were being cut from it."""
        self.entries.append(QuarantinedVideo(video, position, path, reason, None))

    def barred(self, positions: Sequence[int]) -> Barred:
        """What must not be opened for clips at ``positions`` (ascending)."""
        step = positions[0] // self._clips_per_step if self._clips_per_step else 0
        everywhere = {e.video: e.reason for e in self.entries if e.from_step is not None and e.from_step <= step}
        here = {(e.position, e.video): e.reason for e in self.entries if positions[0] <= e.position <= positions[-1]}
        return Barred(everywhere, here)

    def agree(self, done: int, gather: Callable[[Any], list[Any]]) -> None:
        """Make the ranks' new entries common after ``done`` steps. Collective: ``gather`` returns every rank's value."""
        mine = [entry for entry in self.entries if entry.from_step is None]
        everyone = sorted((entry for entries in gather(mine) for entry in entries), key=lambda entry: entry.position)
        settled = [entry for entry in self.entries if entry.from_step is not None]
        self.entries = settled + [entry._replace(from_step=done + self._lookahead) for entry in everyone]

    def state(self) -> list[dict[str, Any]]:
        """The entries as JSON, for the checkpoint."""
        return [entry._asdict() for entry in self.entries]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take the entries of a checkpoint."""
        self.entries = [QuarantinedVideo(**entry) for entry in state]
