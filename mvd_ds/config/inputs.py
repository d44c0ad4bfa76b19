"""The inputs of a recipe: the files and folders that it reads, by the settings that name them, and those that are missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvd_ds.config.base import is_address
from mvd_ds.config.load import dump, find_engine_config
from mvd_ds.config.networks.hf_folder import find_folder
from mvd_ds.config.recipes import LearningRecipe, Recipe, TrainingRecipe
from mvd_ds.config.teachers import EMA
from mvd_ds.files import ConfigError

#: Last names of the settings that name an input.
INPUTS = ("manifest", "validation_manifest", "weights", "text_vectors", "codebook", "words", "tokenizer")
#: In place of a path of weights: an untrained network.
RANDOM = "random"


def inputs_of(recipe: Recipe) -> dict[str, Path]:
    """Return the path of every input of ``recipe`` by its setting, such as ``teachers.video.weights``."""
    values = dump(recipe)
    if values["data"]["sources"]:
        del values["data"]["manifest"]
    found = {setting: _place(setting, value) for setting, value in inputs_in(values) if not is_of_elsewhere(setting, value)}
    if isinstance(recipe, LearningRecipe):
        for key in ("config", "teacher_config"):
            try:
                found[f"engine.{key}"] = find_engine_config(getattr(recipe.engine, key))
            except ConfigError:
                continue  # said by whoever needs it
    return found


def is_of_elsewhere(setting: str, value: str) -> bool:
    """Return whether an input is no file or folder of this host: a manifest by address, or the tar files of a pattern."""
    return setting.endswith("manifest") and (is_address(value) or ("{" in value and value.endswith(".tar")))


def _place(setting: str, value: str) -> Path:
    """Return the path that a setting means; weights may be the name of a network in Hugging Face's cache."""
    path = Path(value).expanduser()
    if setting.endswith("weights") and not _is_no_file(setting, value) and not path.exists():
        with contextlib.suppress(ConfigError):
            return find_folder(value)
    return path


def _is_no_file(setting: str, value: str) -> bool:
    """Return whether a setting names weights that are in no file: random ones, or the moving average of the student's own."""
    return setting.endswith("weights") and (value == RANDOM or (value == EMA and setting.startswith("teachers.")))


def missing_inputs(recipe: Recipe) -> list[str]:
    """Return a line for every input of ``recipe`` that is not on this host, with the settings that name it."""
    settings: dict[Path, list[str]] = {}
    cache = recipe.targets.cache if isinstance(recipe, TrainingRecipe) else None
    if cache is not None:
        settings[Path(cache)] = ["targets.cache"]
    for setting, path in inputs_of(recipe).items():
        if cache is not None and setting.startswith("teachers."):
            continue  # no teacher is loaded
        if not _is_no_file(setting, str(path)):
            settings.setdefault(path, []).append(setting)
    faults = {path: _fault(path) for path in settings}
    lines = [f"{', '.join(settings[path])}: {path} {fault}" for path, fault in faults.items() if fault]
    if isinstance(recipe, LearningRecipe):
        for key in ("config", "teacher_config"):
            try:
                find_engine_config(getattr(recipe.engine, key))
            except ConfigError as error:
                lines.append(f"engine.{key}: {error}")
    return lines


def _fault(path: Path) -> str:
    if not path.exists():
        return "is not there"
    if path.is_dir():
        return "" if any(path.iterdir()) else "is an empty folder"
    return "" if path.stat().st_size or not path.is_file() else "is an empty file"


def inputs_in(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (setting, path as it was written) of every file or folder that the dumped recipe ``values`` reads."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in pairs:
        if (key in INPUTS or prefix.endswith("words.")) and isinstance(value, str):  # words: a file, or one for each label
            yield f"{prefix}{key}", value
        elif isinstance(value, dict | list):
            yield from inputs_in(value, f"{prefix}{key}.")
