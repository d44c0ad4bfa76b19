"""The files that a model folder keeps, in its folder ``text``, so that its text tower reads texts on any host."""

from __future__ import annotations

import functools
from pathlib import Path

from mvd_ds.config import ConfigError, LanguageSettings, TrainingRecipe
from mvd_ds.config.networks.text_folder import text_folder_of
from mvd_ds.files import one_line
from mvd_ds.models.formats.containers import CONFIG_NAME

TEXT_FOLDER = "text"
"""Name of the folder inside of a model folder."""
TOKENIZER_NAME = "tokenizer.json"
#: Files of a folder of transformers; the last one is not in all of them.
_OF_WEIGHTS = (CONFIG_NAME, TOKENIZER_NAME, "tokenizer_config.json")


def text_files(language: LanguageSettings | None) -> dict[str, bytes]:
    """Return the files that a model folder keeps for its text tower, by their paths inside of it; none for bytes as tokens.

    They are read once for a process, so that a tokenizer that goes away while a run trains does no harm.

    Raises:
        ConfigError: in one line, if one cannot be read.
    """
    return {} if language is None else _read(language.text.weights, language.text.tokenizer)


@functools.lru_cache(maxsize=2)
def _read(weights: str | None, tokenizer: str | None) -> dict[str, bytes]:
    if weights is not None:
        folder = text_folder_of(weights)
        paths = {name: folder / name for name in _OF_WEIGHTS if (folder / name).is_file()}
    else:
        paths = {} if tokenizer is None else {TOKENIZER_NAME: Path(tokenizer)}
    try:
        return {f"{TEXT_FOLDER}/{name}": path.read_bytes() for name, path in paths.items()}
    except OSError as error:
        raise ConfigError(f"language.text: {one_line(error.filename)} cannot be read: {error.strerror}") from None


def with_own_text(recipe: TrainingRecipe, folder: Path) -> TrainingRecipe:
    """Return the recipe of a model folder with the tokenizer, and the description of the text tower, that lie inside of it."""
    if recipe.language is None:
        return recipe
    return recipe.model_copy(update={"language": language_of(recipe.language, folder)})


def language_of(language: LanguageSettings, folder: Path) -> LanguageSettings:
    """Return the settings of a text tower with the files that lie inside of a model folder, where there are any."""
    inside, text = folder / TEXT_FOLDER, language.text
    if not (inside / TOKENIZER_NAME).is_file():
        return language
    update = {"weights": str(inside)} if text.weights is not None else {"tokenizer": str(inside / TOKENIZER_NAME)}
    return language.model_copy(update={"text": text.model_copy(update=update)})
