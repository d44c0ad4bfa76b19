"""The quarantine: videos that ended the process that read them are not tried again, and the stream stays reproducible."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol


class Barred(NamedTuple):
    """The videos that must not be opened, with the reason; it is sent to a worker with its task."""

    everywhere: dict[int, str]
    """Video -> reason."""
    here: dict[tuple[int, int], str]
    """(position in the stream, video) -> reason."""

    def reason(self, position: int, video: int) -> str | None:
        """Return why ``video`` must not be opened at ``position``; None if it may."""
        return self.everywhere.get(video) or self.here.get((position, video))


class QuarantinedVideo(NamedTuple):
    """A video that ended its reader once."""

    video: int
    """Index in the manifest; -1: the manifest holds it no longer, or other content has its name now."""
    position: int
    """Position in the stream of the first clip that was to be cut from it."""
    path: str
    """Path of the video."""
    reason: str
    """End of its reader, in words."""
    from_step: int | None
    """Optimizer step from which no rank opens it any more; None until the ranks have agreed."""
    stamp: str = ""
    """Mark of its content; empty in checkpoints of earlier versions."""


class Videos(Protocol):
    """The videos of a run by index, as ``VideoSource`` has them."""

    def __len__(self) -> int:
        """Return the number of videos."""
        ...

    def path(self, index: int) -> str:
        """Return the path of a video."""
        ...

    def stamp(self, index: int) -> str:
        """Return a mark of a video's content."""
        ...


class Quarantine:
    """The list, and the rule that keeps the stream the same for all ranks and after a restart.

    **Rule.** A video that ended its worker counts as bad at that place of the stream at once. Everywhere else it counts as
    bad from ``from_step`` on. All ranks settle that step together, at an agreement (log and save steps): it lies behind
    whatever any rank may have read ahead by then. The list is saved after an agreement, so a run that resumes from a
    checkpoint bars the same videos at the same places as the run that went on. A video that ends a second reader before
    ``from_step`` is a second entry.

    A checkpoint's entries are found again by path and content, not by index: the manifest may have been edited, and a
    file that was replaced is tried again.

    Args:
        clips_per_step: global batch, to know the step of a position; 0 if there are no steps (evaluation).
        lookahead_steps: steps that a rank may read ahead.
        videos: the videos that indices count; None: indices are all that is known of them.
    """

    def __init__(self, clips_per_step: int = 0, lookahead_steps: int = 0, videos: Videos | None = None) -> None:
        self._clips_per_step, self._lookahead, self._videos = clips_per_step, lookahead_steps, videos
        self.entries: list[QuarantinedVideo] = []

    def add(self, position: int, video: int, path: str, reason: str) -> None:
        """Add ``video``, which ended a worker while clips from ``position`` on were being cut from it."""
        stamp = self._videos.stamp(video) if self._videos is not None else ""
        self.entries.append(QuarantinedVideo(video, position, path, reason, None, stamp))

    def barred(self, positions: Sequence[int]) -> Barred:
        """Return what must not be opened for clips at ``positions`` (ascending)."""
        step = positions[0] // self._clips_per_step if self._clips_per_step else 0
        known = [entry for entry in self.entries if entry.video >= 0]
        everywhere = {e.video: e.reason for e in known if e.from_step is not None and e.from_step <= step}
        here = {(e.position, e.video): e.reason for e in known if positions[0] <= e.position <= positions[-1]}
        return Barred(everywhere, here)

    def agree(self, done: int, gather: Callable[[Any], list[Any]]) -> None:
        """Make the ranks' new entries common after ``done`` steps. Collective: ``gather`` returns every rank's value."""
        mine = [entry for entry in self.entries if entry.from_step is None]
        everyone = sorted((entry for entries in gather(mine) for entry in entries), key=lambda entry: entry.position)
        settled = [entry for entry in self.entries if entry.from_step is not None]
        self.entries = settled + [entry._replace(from_step=done + self._lookahead) for entry in everyone]

    def state(self) -> list[dict[str, Any]]:
        """Return the entries as JSON, for the checkpoint."""
        return [entry._asdict() for entry in self.entries]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take the entries of a checkpoint, each at the index that its video has now."""
        entries = [QuarantinedVideo(**entry) for entry in state]
        if self._videos is not None:
            entries = self._located(entries, self._videos)
        self.entries = entries

    @staticmethod
    def _located(entries: list[QuarantinedVideo], videos: Videos) -> list[QuarantinedVideo]:
        lost = [e for e in entries if not (0 <= e.video < len(videos) and videos.path(e.video) == e.path)]
        named: dict[str, list[int]] = {os.path.basename(entry.path): [] for entry in lost}
        for index in range(len(videos)) if lost else ():
            if (same := named.get(os.path.basename(videos.path(index)))) is not None:
                same.append(index)
        found = []
        for entry in entries:
            places = named[os.path.basename(entry.path)] if entry in lost else [entry.video]
            # A folder that was moved keeps the names of its files.
            places = [index for index in places if videos.path(index) == entry.path] or (places if entry.stamp else [])
            places = [index for index in places if entry.stamp in ("", videos.stamp(index))]
            found.append(entry._replace(video=places[0] if places else -1))
        return found
