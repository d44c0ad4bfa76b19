"""Texts as rows of token numbers: bytes by default, or what a file of the package tokenizers makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import LANGUAGE, ConfigError, LanguageSettings, TextSettings
from mvd_ds.data.manifests.manifest import Manifest, require_captions
from mvd_ds.files import one_line


class Tokens:
    """Makes rows of numbers: the beginning, the tokens of a text, its end, and what fills the row up.

    The three special tokens stand behind those of texts, so that any tokenizer will do.

    Args:
        settings: the text tower that reads them.

    Raises:
        ConfigError: if the tokenizer cannot be read.
    """

    def __init__(self, settings: TextSettings) -> None:
        self.context = settings.context
        self.begin, self.end, self.filling = (settings.vocabulary - place for place in (3, 2, 1))
        self._path = settings.tokenizer
        self._tokenizer: Any = None if self._path is None else _open(self._path)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a worker, which opens the file anew."""
        return {**self.__dict__, "_tokenizer": None}

    def encode(self, text: str) -> np.ndarray:
        """Return int64 (context,) of a text; one that is too long is cut, and keeps its end."""
        row = np.full(self.context, self.filling, np.int64)
        numbers = self._numbers(text)[: self.context - 2]
        row[: len(numbers) + 2] = [self.begin, *numbers, self.end]
        return row

    def encode_all(self, texts: Sequence[str]) -> np.ndarray:
        """Return int64 (n, context) of texts."""
        return np.stack([self.encode(text) for text in texts])

    def _numbers(self, text: str) -> list[int]:
        if self._path is None:
            return list(text.encode()[: self.context])
        if self._tokenizer is None:
            self._tokenizer = _open(self._path)
        numbers: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return numbers


def caption_tokens(language: LanguageSettings | None, manifests: Sequence[Manifest]) -> Tokens | None:
    """Return what makes tokens of the captions of a run; None without ``language``.

    Raises:
        ConfigError: if a video has no caption, or the tokenizer cannot be read.
    """
    if language is None:
        return None
    for manifest in manifests:
        require_captions(manifest, LANGUAGE)
    return Tokens(language.text)


def text_encoder(settings: TextSettings) -> Callable[[Sequence[str]], Tensor]:
    """Return a function that makes rows of token numbers, int64 (n, L), of texts.

    Raises:
        ConfigError: if the tokenizer cannot be read.
    """
    tokens = Tokens(settings)
    return lambda texts: torch.from_numpy(tokens.encode_all(texts))


def _open(path: str) -> Any:
    """Open a file of the package tokenizers; no code of the file runs, it is data.

    Raises:
        ConfigError: in one line, if it is none, or the package is missing.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError("language.text.tokenizer needs the package tokenizers: pip install 'mvd-ds[hf]'") from None
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the package raises plain exceptions
        raise ConfigError(f"language.text.tokenizer {one_line(path)}: {one_line(error, 200)}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
