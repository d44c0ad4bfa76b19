"""A student that has learnt from captions, opened by the folder of its run: vectors of clips and of texts in one space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError, EncoderSettings, Grid, LanguageSettings, PreprocessingSettings, TextSettings, dump
from mvd_ds.files import one_line
from mvd_ds.models.adaptors.text_vectors import TextVectors
from mvd_ds.models.adaptors.zero_shot import ZeroShotClassifier
from mvd_ds.models.building import open_encoder
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, trained_clip
from mvd_ds.models.formats.containers import CONFIG_NAME, read_safetensors
from mvd_ds.models.formats.foreign import first_line, part, read_object
from mvd_ds.models.formats.strict import load_strictly
from mvd_ds.models.initialisation import build_without_weights
from mvd_ds.models.text.head import LanguageHead
from mvd_ds.models.text.own_files import language_of
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import model_file, read_recipe

LANGUAGE_NAME = "language.safetensors"
"""The text tower beside an encoder in a folder of ``export``; in that of a run it is among the weights of the student."""
#: Texts that are read at once.
CHUNK_TEXTS = 256
#: Largest factor of cosines. Source: CLIP.
LARGEST_SCALE = 100.0

Encode = Callable[[Sequence[str]], Tensor]
"""Returns texts as rows of token numbers, int64 (n, L)."""


class CaptionedEncoder(nn.Module):
    """An encoder with the text tower that learnt with it.

    Args:
        settings: the encoder.
        grid: (t, h, w) of its tokens.
        language: the text tower and the space.
    """

    def __init__(self, settings: EncoderSettings, grid: Grid, language: LanguageSettings) -> None:
        super().__init__()
        self.encoder = VisionTransformer(settings, grid)
        self.language = LanguageHead(language, settings)

    def forward(self, clip: Tensor) -> Tensor:
        """Map normalised clips (B, C, T, H, W) to unit vectors (B, E), fp32; all tokens are seen."""
        return self.language.clips(self.encoder(clip))

    @property
    def scale(self) -> float:
        """Learned factor of cosines."""
        return min(float(self.language.scale()[0].detach().exp()), LARGEST_SCALE)

    @torch.no_grad()
    def texts(self, texts: Sequence[str], encode: Encode) -> Tensor:
        """Return unit vectors (n, E), fp32, of texts."""
        place = self.language.scale.values.device
        chunks = [texts[first : first + CHUNK_TEXTS] for first in range(0, len(texts), CHUNK_TEXTS)]
        return torch.cat([self.language.texts(encode(chunk).to(place), self.encoder.blocks) for chunk in chunks])

    def word_vectors(self, classes: Sequence[str], texts: Sequence[Sequence[str]], encode: Encode) -> TextVectors:
        """Return a vector for each class, the mean of the unit vectors of its texts. Source: CLIP.

        Args:
            classes: names.
            texts: of each class.
            encode: makes rows of tokens of texts.
        """
        flat = self.texts([text for own in texts for text in own], encode)
        means = torch.stack([part.mean(dim=0) for part in flat.split([len(own) for own in texts])])
        return TextVectors(tuple(classes), nn.functional.normalize(means, dim=-1), self.scale)


class NamedTexts(Protocol):
    """Classes in words; the data room reads them from a file."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def texts(self) -> list[list[str]]:
        """The texts of each class."""


def open_by_words(
    source: str | Path, words: NamedTexts, encoder: Callable[[TextSettings], Encode], dtype: torch.dtype = torch.float32
) -> tuple[ZeroShotClassifier, ClassifierCard]:
    """Return a classifier by words, of a student that has learnt from captions, and its card; in ``eval()``, on the CPU.

    Args:
        source: folder of the run.
        words: the classes.
        encoder: makes rows of tokens of texts, for a text tower.
        dtype: precision of both towers; cosines are fp32.

    Raises:
        ConfigError: as ``open_captioned``.
    """
    captioned, preprocessing = open_captioned(source)
    scale = captioned.scale  # before: the factor of a logarithm in bf16 is off by a per cent
    captioned = captioned.to(dtype)
    vectors = captioned.word_vectors(words.classes, words.texts, encoder(captioned.language.settings.text))
    vectors = vectors._replace(scale=scale)
    return ZeroShotClassifier(captioned, vectors).eval(), ClassifierCard(vectors.classes, preprocessing)


def open_captioned(source: str | Path) -> tuple[CaptionedEncoder, PreprocessingSettings]:
    """Return the student of a run's folder with its text tower, in ``eval()``, fp32, on the CPU, and how its clips are cut.

    Raises:
        ConfigError: if the folder is not that of a run or of ``export``, or its student has not learnt from captions.
    """
    inner = Path(source) / "model"
    folder = inner if (inner / CONFIG_NAME).is_file() else Path(source)
    if (folder / LANGUAGE_NAME).is_file():
        return _open_exported(folder)
    recipe = read_recipe(folder)
    if recipe.language is None:
        raise ConfigError(f"{one_line(source)}: has learnt from no captions, so it knows no words; train it with language")
    language = recipe.language
    file = model_file(folder, "model")
    model = build_without_weights(lambda: CaptionedEncoder(recipe.model, recipe.grid, language))
    tensors = {name: value for name, value in read_safetensors(file)[0].items() if name.startswith(("encoder.", "language."))}
    load_strictly(model, tensors, str(file))
    return model.eval(), PreprocessingSettings(clip=recipe.data.clip)


def knows_words(folder: str | Path) -> bool:
    """Return whether the model in a folder has a text tower, which ``open_captioned`` opens."""
    path = Path(folder)
    if (path / LANGUAGE_NAME).is_file():
        return True
    recipe = read_object(path / CONFIG_NAME).get("recipe") if (path / CONFIG_NAME).is_file() else None
    return isinstance(recipe, dict) and recipe.get("language") is not None


def exported_language(captioned: CaptionedEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the part of a ``config.json`` that describes a text tower, and its tensors for ``language.safetensors``."""
    return {"language": dump(captioned.language.settings)}, captioned.language.state_dict()


def _open_exported(folder: Path) -> tuple[CaptionedEncoder, PreprocessingSettings]:
    origin, clip = str(folder / CONFIG_NAME), trained_clip(folder)
    try:
        stated = LanguageSettings.model_validate(part(read_object(folder / CONFIG_NAME), "language", origin))
    except ValueError as error:
        raise ConfigError(f"{one_line(origin)}: language: {first_line(error)}") from None
    encoder, language = open_encoder(folder, clip.frames, clip.size_px), language_of(stated, folder)
    model = build_without_weights(lambda: CaptionedEncoder(encoder.settings, encoder.grid, language))
    model.encoder = encoder
    load_strictly(model.language, read_safetensors(folder / LANGUAGE_NAME)[0], str(folder / LANGUAGE_NAME))
    return model.eval(), PreprocessingSettings(clip=clip)
