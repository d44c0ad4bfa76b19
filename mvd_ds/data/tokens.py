"""Texts as rows of token numbers: bytes by default, or what a file of the package tokenizers makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import LANGUAGE, ConfigError, LanguageSettings, TextSettings
from mvd_ds.config.networks.text_folder import text_folder_of
from mvd_ds.data.manifests.manifest import Manifest, require_captions
from mvd_ds.files import one_line, read_json

TOKENIZER_NAME, TOKENIZER_CONFIG_NAME = "tokenizer.json", "tokenizer_config.json"
_FILLING_LEFT = ("Siglip2Tokenizer", "GemmaTokenizer")
"""Classes of transformers that fill rows up before texts unless something else is stated."""


class Tokens:
    """Makes rows of numbers: the beginning, the tokens of a text, its end, and what fills the row up.

    The three special tokens stand behind those of texts, so that any tokenizer will do. Those of a folder are its own.

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
        numbers: list[int] = self._opened.encode(text, add_special_tokens=False).ids
        return numbers

    @property
    def _opened(self) -> Any:
        if self._tokenizer is None:
            assert self._path is not None
            self._tokenizer = _open(self._path)
        return self._tokenizer


class FolderTokens(Tokens):
    """Makes rows as the tokenizer of a folder of transformers does: with its own special tokens, and filled up as it says.

    Args:
        settings: the text tower, with ``weights``.

    Raises:
        ConfigError: in one line, if the folder has no ``tokenizer.json``, or that is of another tower.
    """

    def __init__(self, settings: TextSettings) -> None:
        assert settings.weights is not None and settings.folder is not None
        folder, shape = text_folder_of(settings.weights), settings.folder
        origin = f"language.text.weights {one_line(folder)}"
        self.context, self._lowers = shape.context, shape.family != "clip"
        self._path = str(folder / TOKENIZER_NAME)
        if not (folder / TOKENIZER_NAME).is_file():
            raise ConfigError(
                f"{origin}: has no {TOKENIZER_NAME}; write it by transformers: AutoTokenizer.from_pretrained(FOLDER)"
                ".save_pretrained(FOLDER)"
            )
        self._tokenizer = _open(self._path)
        stated = read_json(folder / TOKENIZER_CONFIG_NAME) if (folder / TOKENIZER_CONFIG_NAME).is_file() else {}
        if not isinstance(stated, dict):
            raise ConfigError(f"{origin}/{TOKENIZER_CONFIG_NAME}: is not a JSON object")
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        if max(known.values(), default=0) >= shape.vocabulary:
            raise ConfigError(
                f"{origin}: its {TOKENIZER_NAME} numbers tokens to {max(known.values()):,}, and its text tower has "
                f"{shape.vocabulary:,}; it is that of another network"
            )
        self.filling, self._fills_left = self._fills(stated, known, origin)
        # Folders of older releases leave the end of a text to a class, and state it here.
        self.ending = known.get(_content(stated.get("eos_token")) or "") if stated.get("add_eos_token") else None
        if shape.pooled == "first" and shape.end not in self.encode("a"):
            raise ConfigError(f"{origin}: its tokenizer ends no text by {shape.end}, the eos_token_id of its text tower")

    def encode(self, text: str) -> np.ndarray:
        """Return int64 (context,) of a text; one that is too long is cut, and keeps its end."""
        tokenizer = self._opened
        tokenizer.enable_truncation(self.context)
        numbers = tokenizer.encode(text.lower() if self._lowers else text).ids
        if self.ending is not None and numbers[-1:] != [self.ending]:
            numbers = [*numbers[: self.context - 1], self.ending]
        free = [self.filling] * (self.context - len(numbers))
        return np.array([*free, *numbers] if self._fills_left else [*numbers, *free], np.int64)

    def _fills(self, stated: dict[str, Any], known: dict[str, int], origin: str) -> tuple[int, bool]:
        """Return the number that fills rows up, and whether it stands before texts."""
        assert self._path is not None
        own = read_json(Path(self._path)).get("padding") or {}
        token = _content(stated.get("pad_token"))
        number = own.get("pad_id") if token is None else known.get(token)
        if not isinstance(number, int):
            raise ConfigError(f"{origin}: neither {TOKENIZER_CONFIG_NAME} nor {TOKENIZER_NAME} states a pad_token")
        of_class = "left" if str(stated.get("tokenizer_class")).startswith(_FILLING_LEFT) else "right"
        side = stated.get("padding_side") or str(own.get("direction", of_class)).lower()
        return number, side == "left"


def tokens_of(settings: TextSettings) -> Tokens:
    """Return what makes tokens of texts for a text tower.

    Raises:
        ConfigError: if the tokenizer cannot be read.
    """
    return Tokens(settings) if settings.weights is None else FolderTokens(settings)


def caption_tokens(language: LanguageSettings | None, manifests: Sequence[Manifest]) -> Tokens | None:
    """Return what makes tokens of the captions of a run; None without ``language``.

    Raises:
        ConfigError: if a video has no caption, or the tokenizer cannot be read.
    """
    if language is None:
        return None
    for manifest in manifests:
        require_captions(manifest, LANGUAGE)
    return tokens_of(language.text)


def text_encoder(settings: TextSettings) -> Callable[[Sequence[str]], Tensor]:
    """Return a function that makes rows of token numbers, int64 (n, L), of texts.

    Raises:
        ConfigError: if the tokenizer cannot be read.
    """
    tokens = tokens_of(settings)
    return lambda texts: torch.from_numpy(tokens.encode_all(texts))


def _content(token: Any) -> str | None:
    """Return a special token of a configuration, which states a text or an object with it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


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
