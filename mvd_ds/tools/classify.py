"""This module names the classes of video files, or their real number (``classify FOLDER VIDEO...``)."""

from __future__ import annotations

from pathlib import Path

import torch

from mvd_ds.config import ConfigError
from mvd_ds.files import one_line
from mvd_ds.training.console import say
from mvd_ds.video_classifier import VideoClassifier


def classify(
    folder: str,
    videos: list[Path],
    top: int,
    segments: int,
    crops: int,
    device: str,
    text_vectors: Path | None = None,
    adaptor: str | None = None,
    words: Path | None = None,
) -> None:
    """Print the likeliest classes of each video, or its real number; one that cannot be read is named, and the others go on.

    Args:
        folder: folder of a classifier, or of an encoder with adaptors where there are ``text_vectors``.
        videos: video files.
        top: number of classes to print.
        segments: number of clips along a video.
        crops: number of crops of each clip.
        device: auto or cpu.
        text_vectors: file of a teacher's text vectors, whose classes are told apart; None: the classifier's own classes.
        adaptor: the summary adaptor in whose space they are; None: the only one of their width.
        words: file of class names and templates, for the folder of a run with ``language``.

    Raises:
        ConfigError: if the folder holds no classifier, or a video could not be read, after all of them.
    """
    for option, value in {"--top": top, "--segments": segments, "--crops": crops}.items():
        if value < 1:
            raise ConfigError(f"{option} {value}: it takes a number from 1")
    place = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    classifier = VideoClassifier(folder, device=place, text_vectors=text_vectors, adaptor=adaptor, words=words)
    faults = []
    for video in videos:
        try:
            lines = _lines(classifier, video, top, segments, crops)
        except ConfigError as error:
            faults.append(str(error))
            continue
        say(one_line(video))
        for line in lines:
            say(f"  {line}")
    if faults:
        raise ConfigError("\n".join(faults))


def _lines(classifier: VideoClassifier, video: Path, top: int, segments: int, crops: int) -> list[str]:
    if classifier.task == "regression":
        return [f"{one_line(classifier.label)} {classifier.value(video, segments, crops):.6g}"]
    guesses = classifier.classify(video, top, segments, crops)
    return [f"{100 * guess.probability:6.2f} %  {one_line(guess.name)}" for guess in guesses]
