"""This module measures retrieval beside a zero-shot test: the vectors of its clips are kept while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.tokens import text_encoder
from mvd_ds.evaluation.predictions import Predictions
from mvd_ds.evaluation.retrieval import retrieval, unique_texts
from mvd_ds.models.text.captioned import CaptionedEncoder
from mvd_ds.training.cluster import Cluster


class KeptVectors:
    """A context that keeps the vectors of all clips that a zero-shot classifier by words sees; of other models it keeps none.

    Args:
        model: the classifier.
        manifest: its videos; without captions nothing is kept either.
    """

    def __init__(self, model: nn.Module, manifest: Manifest) -> None:
        self.network = getattr(model, "network", None)
        self.manifest = manifest
        self.rows: list[Tensor] = []

    @property
    def is_wanted(self) -> bool:
        """Return whether there are captions, and a network that reads them."""
        return isinstance(self.network, CaptionedEncoder) and self.manifest.refs.has_captions

    def __enter__(self) -> KeptVectors:
        if self.is_wanted and self.network is not None:
            self.hook = self.network.register_forward_hook(lambda module, inputs, output: self.rows.append(output.float().cpu()))
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_wanted:
            self.hook.remove()

    def retrieval(self, groups: Iterable[range], views: int, found: Predictions, cluster: Cluster) -> dict[str, Any] | None:
        """Return the figures of retrieval over the videos that could be read and have captions; None without any. Collective.

        Args:
            groups: videos of this process, in the order in which they were seen.
            views: clips of each.
            found: the predictions of all videos.
        """
        if not self.is_wanted:
            return None
        seen = np.concatenate([np.arange(group.start, group.stop) for group in groups] or [np.empty(0, np.int64)])
        means = torch.cat(self.rows).unflatten(0, (-1, views)).mean(dim=1) if self.rows else torch.empty(0)
        parts = cluster.gather((seen, means))
        vectors = {int(video): row for videos, rows in parts for video, row in zip(videos, rows, strict=True)}
        good = [int(video) for video, ok in zip(found.videos, found.ok, strict=True) if ok]
        good = [video for video in good if self.manifest.refs.captions(video)]
        network = self.network
        if not good or not isinstance(network, CaptionedEncoder):
            return None
        texts, tells = unique_texts([self.manifest.refs.captions(video) for video in good])
        of_texts = network.texts(texts, text_encoder(network.language.settings.text)).cpu()
        of_videos = nn.functional.normalize(torch.stack([vectors[video] for video in good]), dim=-1)
        return retrieval(of_videos, of_texts, tells)
