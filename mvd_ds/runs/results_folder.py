"""The folder that a command writes its results to: nothing of another run, and no results of another model, are lost in it."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from mvd_ds.config import ConfigError, Recipe, dump
from mvd_ds.files import read_json
from mvd_ds.training.run_folder import RunFolder


def require_own_folder(folder: RunFolder, recipe: Recipe, contents: Mapping[str, str]) -> None:
    """Raise if ``folder`` holds a run of another command, or results of ``recipe``'s command on another model.

    The same path with new contents is the same model, trained further: its results are replaced.

    Args:
        folder: the folder of ``run.output``.
        recipe: the recipe of now.
        contents: digests of its inputs, by setting.

    Raises:
        ConfigError: in one line that names what the folder holds.
    """
    stored = folder.path / "recipe.yaml"
    try:
        earlier = yaml.safe_load(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    if not isinstance(earlier, dict):
        return
    objective = dump(recipe)["objective"]
    if earlier.get("objective") != objective:
        held = f"a run with objective {earlier.get('objective')}"
        raise ConfigError(f"run.output {folder.path}: holds {held}; choose another, such as {folder.path}_{recipe.command}")
    weights = dump(recipe).get("weights")
    if weights is None or not folder.contents.exists() or earlier.get("weights") == weights:
        return
    if read_json(folder.contents).get("weights") != contents.get("weights"):
        raise ConfigError(
            f"run.output {folder.path}: holds results of another model, {earlier.get('weights')}; choose another run.output for "
            f"{weights}, or remove the folder"
        )
