"""A student that has learnt from captions, opened by the folder of its run: vectors of clips and of texts in one space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError, EncoderSettings, Grid, LanguageSettings, PreprocessingSettings, TextSettings
from mvd_ds.files import one_line
from mvd_ds.models.adaptors.text_vectors import TextVectors
from mvd_ds.models.adaptors.zero_shot import ZeroShotClassifier
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.models.formats.containers import read_safetensors
from mvd_ds.models.formats.strict import load_strictly
from mvd_ds.models.initialisation import build_without_weights
from mvd_ds.models.text.head import LanguageHead
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import model_file, read_recipe

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
        return min(float(self.language.scale()[0].exp()), LARGEST_SCALE)

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
        ConfigError: if the folder is not that of a run, or its student has not learnt from captions.
    """
    inner = Path(source) / "model"
    folder = inner if (inner / "config.json").is_file() else Path(source)
    recipe = read_recipe(folder)
    if recipe.language is None:
        raise ConfigError(f"{one_line(source)}: has learnt from no captions, so it knows no words; train it with language")
    language = recipe.language
    file = model_file(folder, "model")
    model = build_without_weights(lambda: CaptionedEncoder(recipe.model, recipe.grid, language))
    tensors = {name: value for name, value in read_safetensors(file)[0].items() if name.startswith(("encoder.", "language."))}
    load_strictly(model, tensors, str(file))
    return model.eval(), PreprocessingSettings(clip=recipe.data.clip)
