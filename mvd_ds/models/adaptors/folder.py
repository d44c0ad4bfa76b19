"""Folders of encoders with adaptors: ``adaptors.safetensors`` beside ``model.safetensors``, described in ``config.json``.

Without them the folder is that of the encoder alone, for everything that reads one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import AdaptorSettings, ConfigError, PreprocessingSettings, dump
from mvd_ds.files import one_line
from mvd_ds.models.adaptors.adapted import AdaptedEncoder, Undo
from mvd_ds.models.adaptors.text_vectors import read_text_vectors
from mvd_ds.models.adaptors.zero_shot import AdaptedVectors, ZeroShotClassifier
from mvd_ds.models.building import open_encoder
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, trained_clip
from mvd_ds.models.formats.containers import CONFIG_NAME, read_safetensors
from mvd_ds.models.formats.foreign import part, read_object
from mvd_ds.models.formats.strict import load_strictly
from mvd_ds.models.initialisation import build_without_weights

ADAPTORS_NAME = "adaptors.safetensors"


def described(adaptors: Mapping[str, AdaptorSettings]) -> dict[str, Any]:
    """Return the part of a ``config.json`` that describes adaptors."""
    return {"adaptors": {name: dump(adaptor) for name, adaptor in adaptors.items()}}


def tensors_of(adapted: AdaptedEncoder) -> dict[str, Tensor]:
    """Return the tensors of ``adaptors.safetensors``: everything but the encoder."""
    return {name: tensor for name, tensor in adapted.state_dict().items() if not name.startswith("encoder.")}


def has_adaptors(source: str | Path) -> bool:
    """Return whether a folder has adaptors."""
    return (Path(source) / ADAPTORS_NAME).is_file()


def open_adapted(source: str | Path) -> tuple[AdaptedEncoder, PreprocessingSettings]:
    """Return an encoder with its adaptors, in ``eval()``, fp32, on the CPU, and how its clips are cut.

    Raises:
        ConfigError: if the folder has no adaptors, or they are not whole.
    """
    folder = Path(source)
    if not has_adaptors(folder):
        raise ConfigError(
            f"{one_line(source)}: has no adaptors; write them by: python -m mvd_ds export RUN {one_line(source)} --adaptors"
        )
    cards = _cards(folder)
    clip = trained_clip(folder)
    encoder = open_encoder(folder, clip.frames, clip.size_px)
    tensors, _ = read_safetensors(folder / ADAPTORS_NAME)
    adapted = build_without_weights(lambda: AdaptedEncoder(encoder.settings, encoder.grid, cards))
    adapted.encoder = encoder
    _prepare_undo(adapted, tensors, folder)
    kept = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    load_strictly(adapted, tensors | kept, str(folder / ADAPTORS_NAME))
    return adapted.eval(), PreprocessingSettings(clip=clip)


def open_zero_shot(
    source: str | Path, text: str | Path, adaptor: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[ZeroShotClassifier, ClassifierCard]:
    """Return a classifier by the text vectors of a teacher, and its card; in ``eval()``, on the CPU.

    Args:
        source: folder of ``export --adaptors``.
        text: file of text vectors.
        adaptor: the summary adaptor in whose space they are; None: the only one of their width.
        dtype: precision of the encoder and the adaptor; cosines are fp32.

    Raises:
        ConfigError: if the folder has no such adaptor, or its width is not that of the text vectors.
    """
    adapted, preprocessing = open_adapted(source)
    vectors = read_text_vectors(text)
    name = _summary_adaptor(adapted, adaptor, vectors.vectors.shape[1], source, text)
    network = AdaptedVectors(adapted.in_precision(dtype), name)
    return ZeroShotClassifier(network, vectors).eval(), ClassifierCard(vectors.classes, preprocessing)


def _summary_adaptor(adapted: AdaptedEncoder, asked: str | None, width: int, source: str | Path, text: str | Path) -> str:
    summaries = {name: card.width for name, card in adapted.adaptors.items() if card.is_summary}
    listed = ", ".join(f"{name} ({wide} wide)" for name, wide in summaries.items()) or "none"
    where = f"{one_line(source)}: its summary adaptors are {listed}"
    if asked is not None and asked not in summaries:
        adapted.require(asked)
        raise ConfigError(f"{where}; adaptor '{asked}' answers for every token, and texts are compared with a vector of the clip")
    fitting = [name for name, wide in summaries.items() if wide == width and asked in (None, name)]
    if len(fitting) != 1:
        remedy = f"choose one: adaptor={fitting[0]}" if fitting else "text vectors are those of the adaptor's own teacher"
        raise ConfigError(f"{where}; vectors of {one_line(text)} are {width} wide; {remedy}")
    return fitting[0]


def _cards(folder: Path) -> dict[str, AdaptorSettings]:
    origin = str(folder / CONFIG_NAME)
    stated = part(read_object(folder / CONFIG_NAME), "adaptors", origin)
    where = f"{origin}: adaptors"
    cards = {name: AdaptorSettings.read(part(stated, name, where), f"{where}.{one_line(name, 40)}") for name in stated}
    if not cards:
        raise ConfigError(f"{one_line(origin)}: describes no adaptors, and {ADAPTORS_NAME} is there; export it again")
    return cards


def _prepare_undo(adapted: AdaptedEncoder, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Make room for the inverses that the file has."""
    for name, card in adapted.adaptors.items():
        shift = tensors.get(f"undo.{name}.shift")
        if (shift is not None) != (card.standardise in ("running", "phi_s")):
            raise ConfigError(
                f"{one_line(folder / ADAPTORS_NAME)}: adaptor {name} is described with standardise {card.standardise}, but its "
                f"inverse is {'missing' if shift is None else 'there'}; export it again"
            )
        if shift is not None and shift.ndim == 2:
            adapted.undo[name] = Undo(*shift.shape, is_rotated=f"undo.{name}.rotation" in tensors)
