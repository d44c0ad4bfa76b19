"""Folders of classifiers: the network with its weights, the names of its classes, and how it wants its clips."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mvd_ds.config import ClipSettings, ConfigError, PreprocessingSettings, dump
from mvd_ds.files import one_line
from mvd_ds.models.building import network_of, open_model
from mvd_ds.models.classifiers.answers import ANSWERS, Scale, read_task
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.formats.containers import CONFIG_NAME
from mvd_ds.models.formats.describe import describe
from mvd_ds.models.formats.detect import read_checkpoint
from mvd_ds.models.formats.foreign import first_line, part, read_object
from mvd_ds.models.formats.own import description
from mvd_ds.models.formats.reading import Checkpoint
from mvd_ds.models.weights import write_folder

logger = logging.getLogger(__name__)


class ClassifierCard(NamedTuple):
    """The names and clips that a classifier needs to be used, beside its network."""

    classes: tuple[str, ...]
    """A name for each logit."""
    preprocessing: PreprocessingSettings
    """Geometry and normalisation of its clips."""
    label: str = "label"
    """Label of a manifest that it predicts."""
    task: str = "classes"
    """What its outputs say, a name of ``ANSWERS``."""
    scale: Scale | None = None
    """Of task regression, what takes its output to the label's own units."""

    def answer(self, outputs: Tensor) -> Tensor:
        """Map outputs fp32 (B, K) of the head to probabilities (B, K), or to real numbers (B, 1) in the label's own units."""
        return ANSWERS[self.task](outputs, self.scale)

    def described(self) -> dict[str, Any]:
        """Return what a model's description says beside names and clips; nothing of a classifier of one class of many."""
        told = {} if self.task == "classes" else {"task": self.task}
        return told if self.scale is None else {**told, "scale": self.scale._asdict()}


def save_classifier(
    folder: str | Path,
    model: Classifier,
    weights: Mapping[str, Tensor],
    card: ClassifierCard,
    extra: Mapping[str, Any],
    more: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a folder that ``open_classifier`` and ``mvd_ds.load`` open: ``model.safetensors`` and ``config.json``.

    Args:
        folder: written aside, then put in place of what was there.
        model: the network; its own weights are not looked at, it may be sharded.
        weights: its state dict, whole.
        card: names and clips.
        extra: JSON values kept beside it: the step, the settings it was trained by.
        more: further files of tensors, by name.

    Raises:
        ConfigError: if there are not as many names as classes, or the folder cannot be written.
    """
    network = network_of(model)
    assert network.classifier is not None
    if len(card.classes) != network.classifier["classes"]:
        raise ConfigError(f"{folder}: {len(card.classes)} names for {network.classifier['classes']} classes")
    config = description(network.encoder, None, network.classifier, network.clip, "a fine-tuned classifier")
    config |= {
        "classes": list(card.classes),
        "label": card.label,
        "preprocessing": dump(card.preprocessing),
        **card.described(),
        **extra,
    }
    write_folder(Path(folder), weights, config, {"config": json.dumps(config)}, more)


def open_classifier(source: str | Path, format: str | None = None) -> tuple[Classifier, ClassifierCard]:
    """Return a classifier with its weights, in ``eval()``, fp32, on the CPU, and its card.

    Args:
        source: a folder of ``save_classifier``; or a classifier in any known format, whose classes are numbered where it does
            not name them, and whose clips are dense with a stride of 4.
        format: the layout; None: it is detected.

    Raises:
        ConfigError: if there is no classifier in it, or what stands beside its weights is damaged.
    """
    model, checkpoint = open_model(source, format)
    if not isinstance(model, Classifier):
        raise ConfigError(f"{source}: has no class head; give the model folder of a fine-tuned classifier")
    path, config = Path(source), _config(source)
    clip = network_of(model).clip
    try:
        preprocessing = PreprocessingSettings.model_validate(config.get("preprocessing") or _preprocessing(checkpoint, clip))
    except ValueError as error:
        raise ConfigError(f"{path / CONFIG_NAME}: preprocessing: {first_line(error)}") from None
    _require_geometry(path, preprocessing.clip, clip)
    names, label = class_names(source, model.head.out_features), one_line(config.get("label", "label"))
    return model, ClassifierCard(names, preprocessing, label, *read_task(config, path / CONFIG_NAME))


def task_of(source: str | Path) -> str:
    """Return the task of a model's folder; that of a classifier for any other file or folder.

    Raises:
        ConfigError: if the folder names none that is known.
    """
    return read_task(_config(source), Path(source) / CONFIG_NAME)[0]


def _config(source: str | Path) -> dict[str, Any]:
    """Return the ``config.json`` of a folder; empty without one."""
    path = Path(source) / CONFIG_NAME
    return read_object(path) if path.is_file() else {}


def _preprocessing(checkpoint: Checkpoint, clip: Mapping[str, int]) -> dict[str, Any]:
    """Return the preprocessing of a classifier of others: that of its processor, and what is done otherwise is logged."""
    processor = checkpoint.processor
    if processor is None:
        return {"clip": clip}
    for line in processor.differences(clip["size_px"]):
        logger.info("%s: %s", checkpoint.origin, line)
    return {"clip": {**clip, "interpolation": processor.interpolation}, "mean": processor.mean, "std": processor.std}


def trained_clip(source: str | Path, format: str | None = None) -> ClipSettings:
    """Return the clips that a network was trained on, as far as its file says: at least their size.

    Raises:
        ConfigError: if it cannot be read.
    """
    checkpoint, path = read_checkpoint(source, format), Path(source)
    if checkpoint.recipe is not None:
        return checkpoint.recipe.data.clip
    config = _config(source)
    if "preprocessing" in config:
        try:
            return PreprocessingSettings.model_validate(config["preprocessing"]).clip
        except ValueError as error:
            raise ConfigError(f"{path / CONFIG_NAME}: preprocessing: {first_line(error)}") from None
    network = describe(checkpoint)
    keys = ("size_px",) if network.encoder.kind == "image" else ("frames", "size_px")
    return ClipSettings.model_validate({key: network.clip[key] for key in keys})


def class_names(source: str | Path, count: int) -> tuple[str, ...]:
    """Return the names of a classifier's classes: ours, those of a Hugging Face folder, or numbers.

    Args:
        source: its folder or file.
        count: number of its classes.

    Raises:
        ConfigError: if the folder names another number of them.
    """
    path, config = Path(source), _config(source)
    by_number = part(config, "id2label", str(path / CONFIG_NAME))
    names = config.get("classes") or [by_number.get(str(number), str(number)) for number in range(count)]
    if not isinstance(names, list) or len(names) != count:
        raise ConfigError(f"{path / CONFIG_NAME}: classes: it takes a list of {count} names, one for each output of the head")
    wrong = next((name for name in names if not isinstance(name, str | int | float)), None)
    if wrong is not None:
        raise ConfigError(f"{path / CONFIG_NAME}: the names of classes are texts, got {one_line(wrong, 40)}")
    return tuple(map(str, names))


def _require_geometry(path: Path, clip: ClipSettings, built: Mapping[str, int]) -> None:
    """Refuse a description whose clips the network does not take."""
    for key, value in built.items():
        if getattr(clip, key) != value:
            raise ConfigError(
                f"{path / CONFIG_NAME}: preprocessing.clip.{key} is {getattr(clip, key)}, but the network is for {value}"
            )
