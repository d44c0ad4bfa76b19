"""An encoder as mteb's video tasks take it: ``mteb.evaluate(mvd_ds.mteb_model(FOLDER), tasks)``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.data.readers.video import Video
from mvd_ds.data.views import cut_views
from mvd_ds.video_classifier import VideoEncoder


class MtebEncoder:
    """A frozen encoder behind mteb's ``EncoderProtocol``: the mean of the features of a video's views.

    A video is cut as ``mvd_ds.load(FOLDER).features`` cuts it, and not to frames evenly spaced over its length as mteb's own
    models do.

    Args:
        source: folder of a training or of ``export``, or an encoder in any format that ``convert`` reads.
        device: where it computes (None: a GPU if there is one).
        segments: clips along a video.
        crops: crops of each clip.

    Raises:
        ConfigError: if there is no encoder in it.
    """

    def __init__(self, source: str | Path, device: str | None = None, segments: int = 1, crops: int = 1) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = VideoEncoder(source, device=device)
        self.segments, self.crops = segments, crops
        self._name = f"mvd_ds/{Path(source).resolve().name}"

    @property
    def mteb_model_meta(self) -> Any:
        """The facts that mteb keeps beside results.

        Raises:
            ConfigError: if mteb is not installed.
        """
        try:
            from mteb.models import ModelMeta
        except ImportError as error:
            raise ConfigError(f"mteb_model: pip install 'mvd_ds[mteb]' ({error})") from None
        parameters = sum(parameter.numel() for parameter in self.encoder.network.encoder.parameters())
        width = self.encoder.network.encoder.settings.embed_dim
        facts = {"name": self._name, "n_parameters": parameters, "embed_dim": width, "modalities": ["video"]}
        return ModelMeta.create_empty(facts)

    @torch.inference_mode()
    def encode(self, inputs: Any, **_of_the_task: Any) -> np.ndarray:
        """Return features float32 (videos, D).

        Args:
            inputs: DataLoader of rows with a decoder of torchcodec, or frames uint8 (T, C, H, W), under ``video``.

        Raises:
            ConfigError: if rows have no videos, as those of texts, images or sounds.
        """
        if hasattr(inputs, "collate_fn"):
            inputs.collate_fn = _as_they_are  # decoders of several lengths cannot be stacked
        found = [self._features(video) for batch in inputs for video in _videos(batch)]
        return np.stack(found) if found else np.zeros((0, self.encoder.network.encoder.settings.embed_dim), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosines (n, m) of every row with every other."""
        return _directions(embeddings1) @ _directions(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosines (n,) of rows side by side."""
        return (_directions(embeddings1) * _directions(embeddings2)).sum(-1)

    def _features(self, video: Any) -> np.ndarray:
        clip = self.encoder.preprocessing.clip
        views = cut_views(_Decoded(video), clip, self.segments, self.crops)
        parts = [self.encoder.network(part.to(self.encoder.device)).float().cpu() for part in views.split(8)]
        return np.asarray(torch.cat(parts).mean(0).numpy(), np.float32)


class _Decoded(Video):
    """A decoder of torchcodec, or frames that were decoded, as our readers' videos."""

    reader = "mteb"

    def __init__(self, video: Any) -> None:
        self._video, is_frames = video, isinstance(video, Tensor)
        self._count = len(video) if is_frames else int(video.metadata.num_frames)
        self.fps = 0.0 if is_frames else float(video.metadata.average_fps or 0)

    def __len__(self) -> int:
        return self._count

    def get(self, indices: np.ndarray) -> np.ndarray:
        if isinstance(self._video, Tensor):
            frames = self._video[torch.from_numpy(indices)]
        else:
            frames = self._video.get_frames_at(indices.tolist()).data
        return np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy())

    def close(self) -> None:
        """Leave the decoder to its owner."""


def _as_they_are(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def _videos(batch: Any) -> Iterable[Any]:
    if "video" not in batch:
        raise ConfigError(f"mteb_model: encodes videos; this task gives {', '.join(map(str, batch))}")
    return batch["video"]


def _directions(rows: Any) -> Tensor:
    found = torch.atleast_2d(torch.as_tensor(np.asarray(rows), dtype=torch.float32))
    return torch.nn.functional.normalize(found, dim=-1)


def mteb_model(source: str | Path, device: str | None = None, segments: int = 1, crops: int = 1) -> MtebEncoder:
    """Return an encoder that ``mteb.evaluate`` takes for tasks of videos; arguments as of ``MtebEncoder``.

    Raises:
        ConfigError: if there is no encoder in ``source``.
    """
    return MtebEncoder(source, device, segments, crops)
