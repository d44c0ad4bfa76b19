"""A classifier that is ready to use: from a video file to names and probabilities. ``mvd_ds.load(FOLDER)`` opens one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mvd_ds.clips import read_clip
from mvd_ds.config import PreprocessingSettings
from mvd_ds.evaluation.predictions import view_probabilities
from mvd_ds.models.classifier import PixelClassifier
from mvd_ds.models.classifier_folder import open_classifier


class Guess(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


class VideoClassifier:
    """A fine-tuned classifier with its classes and its way to cut clips.

    Attributes:
        classes: name of each logit.
        preprocessing: frames, stride, size, mean and deviation of its clips.
        network: uint8 clips (B, C, T, H, W) -> logits (B, classes); ``network.classifier`` takes normalised ones.
    """

    def __init__(self, source: str | Path, format: str | None = None, device: str | torch.device = "cpu") -> None:
        """Open a folder of ``finetune`` or ``export``, or a classifier in any format that ``convert`` reads.

        Raises:
            ConfigError: if there is no classifier in it.
        """
        model, card = open_classifier(source, format)
        self.classes: tuple[str, ...] = card.classes
        self.preprocessing: PreprocessingSettings = card.preprocessing
        self.network = PixelClassifier(model, card.preprocessing).to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    def clips(self, video: str | Path, segments: int = 1, crops: int = 1) -> Tensor:
        """Return the views of a video file as a test has them, uint8 (segments * crops, C, T, H, W).

        Raises:
            ConfigError: if the file cannot be read.
        """
        return read_clip(video, self.preprocessing.clip, segments, crops)

    @torch.inference_mode()
    def probabilities(self, video: str | Path, segments: int = 1, crops: int = 1) -> Tensor:
        """Return the mean over the views of a video file of their softmax, fp32 (classes,)."""
        views = self.clips(video, segments, crops)[None]
        return view_probabilities(lambda part: self.network(part.to(self.device)), views, chunk=8)[0]

    def classify(self, video: str | Path, top: int = 5, segments: int = 1, crops: int = 1) -> list[Guess]:
        """Return the likeliest classes of a video file, best first.

        Args:
            video: video file.
            top: number of classes.
            segments: number of clips along the video.
            crops: number of crops of each clip.

        Raises:
            ConfigError: if the file cannot be read.
        """
        found = self.probabilities(video, segments, crops)
        best = found.argsort(descending=True, stable=True)[:top]
        return [Guess(self.classes[index], float(found[index])) for index in best.tolist()]

    def __repr__(self) -> str:
        clip = self.preprocessing.clip
        return f"VideoClassifier({len(self.classes)} classes, {clip.frames} frames of {clip.size_px} px)"
