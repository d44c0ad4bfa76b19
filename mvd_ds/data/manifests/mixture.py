"""The order of the videos of an epoch, for one manifest or a mixture of several."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mvd_ds.config import ConfigError, DataSettings
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.readers.location import extension_of
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS
from mvd_ds.data.remote.addresses import name_in
from mvd_ds.files import counted, one_line


class Mixture(NamedTuple):
    """Manifests whose videos are mixed."""

    manifests: tuple[Manifest, ...]
    weights: tuple[float, ...]
    """Share of each manifest in the clips of an epoch, up to a common factor."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (n, L) of all videos; L = 0 unless all manifests name the same labels and number their classes alike."""
        numberings = [(manifest.label_names, manifest.class_names) for manifest in self.manifests]
        if any(numbering != numberings[0] for numbering in numberings):
            return np.zeros((sum(len(manifest.refs) for manifest in self.manifests), 0), np.int64)
        return np.concatenate([manifest.labels for manifest in self.manifests])

    @property
    def keys(self) -> list[str]:
        """A short name for each manifest, no two alike: that of its file, with a number where it is taken."""
        keys: list[str] = []
        for manifest in self.manifests:
            key = re.sub(r"[^A-Za-z0-9_.-]+", "_", os.path.splitext(os.path.basename(name_in(manifest.source)))[0]) or "source"
            keys.append(key if key not in keys else next(f"{key}_{n}" for n in itertools.count(2) if f"{key}_{n}" not in keys))
        return keys

    def rounds(self, epochs: float) -> list[str]:
        """Return a line for each of several manifests: how often its videos are shown in ``epochs`` epochs of all."""
        sizes = [len(manifest.refs) for manifest in self.manifests]
        shares = _shares(sum(sizes), self.weights)
        lines = zip(self.manifests, sizes, shares, strict=True)
        return [
            f"{manifest.source}: {counted(size, 'video')}, {share / sum(sizes):.1%} of clips, {epochs * share / size:.2f} epochs"
            for manifest, size, share in lines
            if len(sizes) > 1
        ]


def read_mixture(data: DataSettings) -> Mixture:
    """Read the manifests of ``data.sources``, or the one of ``data.manifest``.

    Raises:
        ConfigError: for a faulty one.
    """
    if not data.sources:
        return Mixture((read_manifest(data.manifest, data.root),), (1.0,))
    manifests = tuple(read_manifest(source.manifest, source.root) for source in data.sources)
    for source, manifest in zip(data.sources, manifests, strict=True):
        if source.images == "image_teachers":
            _require_pictures(manifest)
    weights: list[float] = [source.weight or len(manifest.refs) for source, manifest in zip(data.sources, manifests, strict=True)]
    if data.temperature != 1:
        weights = [(weight / max(weights)) ** (1 / data.temperature) for weight in weights]
    return Mixture(manifests, tuple(weights))


def _require_pictures(manifest: Manifest) -> None:
    refs = manifest.refs
    videos = [index for index in range(len(refs)) if extension_of(refs.location(index)) not in IMAGE_EXTENSIONS]
    if videos:
        raise ConfigError(
            f"{one_line(manifest.source)}: {len(videos)} of {len(refs)} are no pictures, such as "
            f"{one_line(refs.path(videos[0]), 200)}; give these a source of their own, or choose images: repeated"
        )


class VideoOrder:
    """The video at each place of each epoch, from the seed alone.

    An epoch has as many places as there are videos. One manifest: its videos in an order drawn for the epoch. Several: each
    gets its weight's share of the places, anywhere in the epoch, and goes through its own videos round after round, in an
    order drawn for each round. So each of them shows all its videos equally often, whatever the weights are.
    """

    def __init__(self, seed: int, sizes: Sequence[int], weights: Sequence[float]) -> None:
        """Keep the seed, the number of videos of each manifest, and their weights."""
        self._seed = seed
        self._sizes = list(sizes)
        self._first_video = np.cumsum([0, *sizes]).tolist()
        self._first_place = np.cumsum([0, *_shares(sum(sizes), weights)]).tolist()
        self._shown = [np.zeros(len(sizes), np.int64)]
        """Places of each manifest that were shown before an epoch."""

    def video(self, epoch: int, place: int) -> int:
        """Index of the video at ``place`` of ``epoch``."""
        total = self._first_video[-1]
        drawn = int(_permutation(self._seed, "order", epoch, -1, total)[place])
        if len(self._sizes) == 1:
            return drawn
        source = int(np.searchsorted(self._first_place, drawn, side="right")) - 1
        first, end = self._first_place[source : source + 2]
        shown = epoch * (end - first) + drawn - first
        turn, place = divmod(shown, self._sizes[source])
        return self._first_video[source] + int(_permutation(self._seed, "source", source, turn, self._sizes[source])[place])

    def shown_between(self, epoch: int, first: int, last: int) -> np.ndarray:
        """Return int64 (manifests,): how many of the places ``first`` to ``last - 1`` of an epoch are of each."""
        drawn = _permutation(self._seed, "order", epoch, -1, self._first_video[-1])[first:last]
        return np.bincount(np.searchsorted(self._first_place, drawn, side="right") - 1, minlength=len(self._sizes))

    def source(self, video: int) -> int:
        """Return the number of the manifest that ``video`` is from."""
        return int(np.searchsorted(self._first_video, video, side="right")) - 1

    def seen(self, epochs: int, places: int, more: int) -> list[float]:
        """Return how often each manifest's videos were shown on average, counted up to a place in the stream.

        Args:
            epochs: epochs that are over.
            places: places of each that were shown; the rest of an epoch, less than a step, is not.
            more: places of the next epoch that were shown.
        """
        while len(self._shown) <= epochs:
            self._shown.append(self._shown[-1] + self._counts(len(self._shown) - 1, places))
        return ((self._shown[epochs] + self._counts(epochs, more)) / np.array(self._sizes)).tolist()

    def _counts(self, epoch: int, places: int) -> np.ndarray:
        """Return int64 (manifests,): how many of the first ``places`` of an epoch are of each."""
        if places >= self._first_video[-1]:
            return np.diff(self._first_place)
        return self.shown_between(epoch, 0, places)

    def replacement(self, video: int, generator: np.random.Generator) -> int:
        """Another video of the manifest that ``video`` is from, or by chance the same again."""
        source = self.source(video)
        return self._first_video[source] + int(generator.integers(self._sizes[source]))


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` places divided by weight; what is left over goes to the largest remainders."""
    wanted = np.asarray(weights) * total / sum(weights)
    counts = np.floor(wanted).astype(int)
    counts[np.argsort(counts - wanted, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()


@lru_cache(maxsize=32)
def _permutation(seed: int, stream: str, number: int, turn: int, size: int) -> np.ndarray:
    """Kept for the places around it: drawing one for 200,000 videos takes 3 ms."""
    keys = (number,) if turn < 0 else (number, turn)
    return keyed_generator(seed, stream, *keys).permutation(size)
