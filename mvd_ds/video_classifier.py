"""Models that are ready for video files: names and probabilities, features, or answers in the space of a teacher.

``mvd_ds.load(FOLDER)`` opens one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from mvd_ds.clips import read_clip
from mvd_ds.config import ConfigError, PreprocessingSettings
from mvd_ds.data.tokens import text_encoder
from mvd_ds.data.words import read_words
from mvd_ds.evaluation.predictions import view_probabilities
from mvd_ds.models.adaptors.adapted import AdaptedEncoder
from mvd_ds.models.adaptors.folder import has_adaptors, open_adapted, open_zero_shot
from mvd_ds.models.building import open_encoder
from mvd_ds.models.classifiers.classifier import PixelClassifier
from mvd_ds.models.classifiers.classifier_folder import open_classifier, trained_clip
from mvd_ds.models.formats import read_checkpoint
from mvd_ds.models.formats.describe import describe
from mvd_ds.models.pixel_encoder import PixelEncoder
from mvd_ds.models.prompts.file import open_prompts, prompts_file
from mvd_ds.models.text.captioned import open_by_words


class Guess(NamedTuple):
    """A class and its probability; of a network that tells several classes, the probability of this one by itself."""

    name: str
    probability: float


class VideoClassifier:
    """A classifier with its classes and its way to cut clips: a fine-tuned one, or an encoder beside a teacher's text vectors.

    Attributes:
        classes: name of each logit.
        label: name of the label that it tells.
        task: classes, one of each video; multilabel, any number of them; or regression, a real number.
        preprocessing: frames, stride, size, mean and deviation of its clips.
        network: uint8 clips (B, C, T, H, W) -> logits (B, classes); ``network.classifier`` takes normalised ones.
    """

    def __init__(
        self,
        source: str | Path,
        format: str | None = None,
        device: str | torch.device = "cpu",
        text_vectors: str | Path | None = None,
        adaptor: str | None = None,
        words: str | Path | None = None,
    ) -> None:
        """Open a folder of ``finetune`` or ``export``, or a classifier in any format that ``convert`` reads.

        Args:
            source: the folder or file; a file of trained prompts is one, and finds the weights that it belongs to.
            format: the layout; None: it is detected.
            device: where it computes.
            text_vectors: file of a teacher's text vectors, for a folder of ``export --adaptors``: its classes are the texts'.
            adaptor: the summary adaptor in whose space they are; None: the only one of their width.
            words: file of class names and templates, for the folder of a run with ``language``: its text tower reads them; for
                trained prompts, other classes to tell apart by them.

        Raises:
            ConfigError: if there is no classifier in it.
        """
        model: nn.Module
        prompts = prompts_file(source) if text_vectors is None and adaptor is None else None
        if prompts is not None:
            named = None if words is None else read_words(words)
            model, card = open_prompts(prompts, text_encoder, named and (named, named.words))
        elif words is not None:
            if text_vectors is not None or adaptor is not None:
                raise ConfigError("words are read by the run's own text tower: give either them or text vectors")
            model, card = open_by_words(source, read_words(words), text_encoder)
        elif text_vectors is None:
            require_text_vectors(adaptor)
            model, card = open_classifier(source, format)
        else:
            model, card = open_zero_shot(source, text_vectors, adaptor)
        self.classes: tuple[str, ...] = card.classes
        self.label: str = card.label
        self.task: str = card.task
        self.card = card
        self.preprocessing: PreprocessingSettings = card.preprocessing
        self.network = PixelClassifier(model, card.preprocessing).to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    def clips(self, video: str | Path, segments: int = 1, crops: int = 1) -> Tensor:
        """Return the views of a video file as a test has them, uint8 (segments * crops, C, T, H, W).

        Raises:
            ConfigError: if the file cannot be read.
        """
        return read_clip(video, self.preprocessing.clip, segments, crops)

    def probabilities(self, video: str | Path, segments: int = 1, crops: int = 1) -> Tensor:
        """Return the mean over the views of a video file of the probabilities of the classes, fp32 (classes,).

        Raises:
            ConfigError: if the file cannot be read, or a real number is told.
        """
        if self.task == "regression":
            raise ConfigError(f"this model tells a real number, {self.label}, and no classes: take value(VIDEO)")
        return self._answer(video, segments, crops)

    def value(self, video: str | Path, segments: int = 1, crops: int = 1) -> float:
        """Return the real number of a video file, the mean over its views, in the units of the training labels.

        Raises:
            ConfigError: if the file cannot be read, or classes are told.
        """
        if self.task != "regression":
            raise ConfigError("this model tells classes and no real number: take classify(VIDEO)")
        return float(self._answer(video, segments, crops)[0])

    @torch.inference_mode()
    def _answer(self, video: str | Path, segments: int, crops: int) -> Tensor:
        views = self.clips(video, segments, crops)[None]
        return view_probabilities(lambda part: self.network(part.to(self.device)), views, 8, self.card.answer)[0]

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
        told = self.label if self.task == "regression" else f"{len(self.classes)} classes"
        return f"VideoClassifier({told}, {clip.frames} frames of {clip.size_px} px)"


class VideoEncoder:
    """The encoder of a student, a stage-one model or a classifier, with its way to cut clips.

    Attributes:
        preprocessing: frames, stride, size, mean and deviation of its clips.
        network: uint8 clips (B, C, T, H, W) -> features (B, D); ``network.encoder`` takes normalised ones.
        adapted: the encoder with the heads of its teachers, where ``export --adaptors`` kept them; else None.
    """

    def __init__(self, source: str | Path, format: str | None = None, device: str | torch.device = "cpu") -> None:
        """Open a folder of a training or of ``export``, or an encoder in any format that ``convert`` reads.

        Raises:
            ConfigError: if there is no encoder in it.
        """
        self.adapted: AdaptedEncoder | None = None
        if has_adaptors(source):
            self.adapted, self.preprocessing = open_adapted(source)
            self.adapted.to(device).requires_grad_(False)
            encoder = self.adapted.encoder
        else:
            clip = trained_clip(source, format)
            encoder = open_encoder(str(source), clip.frames, clip.size_px, format)
            self.preprocessing = PreprocessingSettings(clip=clip)
        self.network = PixelEncoder(encoder, self.preprocessing).to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    @property
    def adaptors(self) -> tuple[str, ...]:
        """Names of the adaptors, those of the outputs of the training."""
        return () if self.adapted is None else tuple(self.adapted.adaptors)

    @torch.inference_mode()
    def adapt(self, adaptor: str, clip: Tensor | str | Path, segments: int = 1, crops: int = 1) -> Tensor:
        """Return the answer of an adaptor, in the space of its teacher.

        Args:
            adaptor: its name, one of ``adaptors``.
            clip: uint8 clips (B, C, T, H, W), or a video file, of which views are cut.
            segments: number of clips along a video file.
            crops: number of crops of each clip.

        Returns:
            fp32 (B, N, width) with N of the encoder's grid, or (B, width) of a summary.

        Raises:
            ConfigError: if there is no such adaptor, or the file cannot be read.
        """
        if self.adapted is None:
            remedy = "write them by: python -m mvd_ds export RUN FOLDER --adaptors"
            raise ConfigError(f"adaptor '{adaptor}': this model has none; {remedy}")
        self.adapted.require(adaptor)
        views = clip if isinstance(clip, Tensor) else read_clip(clip, self.preprocessing.clip, segments, crops)
        dtype = next(self.network.encoder.parameters()).dtype
        parts = (self.network.normalised(part.to(self.device), dtype) for part in views.split(8))
        return torch.cat([self.adapted.adapt(adaptor, part).cpu() for part in parts])

    @torch.inference_mode()
    def features(self, video: str | Path, segments: int = 1, crops: int = 1) -> Tensor:
        """Return the features of a video file, fp32 (segments * crops, D), a row for each view.

        Raises:
            ConfigError: if the file cannot be read.
        """
        views = read_clip(video, self.preprocessing.clip, segments, crops)
        return torch.cat([self.network(part.to(self.device)).float().cpu() for part in views.split(8)])

    def classify(self, *_video_and_views: Any, **_options: Any) -> NoReturn:
        """Refuse to name classes, which an encoder does not have.

        Raises:
            ConfigError: saying how to get them.
        """
        remedy = (
            "train one: python -m mvd_ds finetune finetune_folder weights=FOLDER data.manifest=VIDEOS; or take features(VIDEO)"
        )
        if self.adaptors:
            remedy += ", or mvd_ds.VideoClassifier(FOLDER, text_vectors=FILE)"
        raise ConfigError(f"classify: this model is an encoder without a class head; {remedy}")

    def __repr__(self) -> str:
        clip, width = self.preprocessing.clip, self.network.encoder.settings.embed_dim
        return f"VideoEncoder(width {width}, {clip.frames} frames of {clip.size_px} px)"


def require_text_vectors(adaptor: str | None) -> None:
    """Refuse an adaptor without text vectors.

    Raises:
        ConfigError: naming the adaptor.
    """
    if adaptor is not None:
        raise ConfigError(f"adaptor '{adaptor}' says in whose space text vectors are: give a file of them, too")


def open_for_videos(source: str | Path, format: str | None = None) -> VideoClassifier | VideoEncoder:
    """Open a classifier where ``source`` has a class head, or else its encoder.

    Args:
        source: folder of a run, of a model or of ``export``; or a file in any known format.
        format: the layout; None: it is detected.

    Raises:
        ConfigError: if it is no model.
    """
    if prompts_file(source) is not None:
        return VideoClassifier(source)
    inner = Path(source) / "model"
    path = inner if (inner / "config.json").is_file() else Path(source)
    has_head = describe(read_checkpoint(path, format)).classifier is not None
    return VideoClassifier(path, format) if has_head else VideoEncoder(path, format)
