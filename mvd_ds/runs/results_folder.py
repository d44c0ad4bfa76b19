"""The folder that a command writes its results to: nothing of another run, and no results of another model, are lost in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from mvd_ds.config import ConfigError, Recipe, dump
from mvd_ds.config.inputs import inputs_in, inputs_of
from mvd_ds.files import read_json
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.contents import Contents, is_finished
from mvd_ds.training.liveness.folder_owner import FolderOwner
from mvd_ds.training.run_folder import RunFolder


def begin_results(recipe: Recipe, folder: RunFolder, product: str, owner: FolderOwner, cluster: Cluster) -> Contents | None:
    """Take the folder of results and write the recipe into it, unless it holds the finished product, which is said. Collective.

    Args:
        recipe: the recipe of now.
        folder: the folder of ``run.output``.
        product: name of the file that is written last.
        owner: the right to write into the folder, not taken yet.
        cluster: the processes.

    Returns:
        Digests of the inputs, by setting; None if nothing is left to do.

    Raises:
        ConfigError: on every rank, if another job works in the folder or it holds something else.
    """
    contents: Contents | None = None
    with cluster.together():
        if cluster.is_main and not is_finished(folder, recipe, product, contents_with_videos):
            take_results_folder(owner, recipe)
            contents = contents_with_videos(recipe, folder.digests)
            require_own_folder(folder, recipe, contents)
            folder.open(recipe, contents)
    begun: Contents | None = cluster.broadcast(contents)
    if begun is None and cluster.is_main:
        say(f"{folder.path} is finished; nothing to do")
    return begun


def take_results_folder(owner: FolderOwner, recipe: Recipe) -> None:
    """Become the owner of a folder of results; nothing is touched of an input, or of a run of another command.

    Raises:
        ConfigError: in one line, if it is one, or another job works in the folder.
    """
    _require_no_input(owner.folder, recipe)
    _require_same_command(owner.folder, recipe, _earlier(owner.folder))
    owner.take()


def require_own_folder(folder: RunFolder, recipe: Recipe, contents: Mapping[str, str]) -> None:
    """Raise if ``folder`` is an input, or holds a run of another command, or results of ``recipe``'s command on another model.

    The same path with new contents is the same model, trained further: its results are replaced.

    Args:
        folder: the folder of ``run.output``.
        recipe: the recipe of now.
        contents: digests of its inputs, by setting.

    Raises:
        ConfigError: in one line that names what the folder holds.
    """
    _require_no_input(folder, recipe)
    earlier = _earlier(folder)
    _require_same_command(folder, recipe, earlier)
    if earlier is None or not folder.contents.exists():
        return
    recorded, now = read_json(folder.contents), dict(inputs_in(dump(recipe)))
    for setting, path in inputs_in(earlier):
        if not setting.endswith("weights") or now.get(setting) == path:
            continue
        if setting in now and recorded.get(setting) == contents.get(setting):
            continue
        raise ConfigError(
            f"run.output {folder.path}: holds results of another model, {setting} {path}; choose another run.output for "
            f"{now.get(setting, 'the others')}, or remove the folder"
        )


def require_no_results(folder: RunFolder, recipe: Recipe) -> None:
    """Raise if a training would begin in a folder that it reads, or that holds results of `evaluate`, `features` or `probe`.

    Args:
        folder: the folder of ``run.output``.
        recipe: the recipe of the training.

    Raises:
        ConfigError: in one line that names what the folder holds.
    """
    _require_no_input(folder, recipe)
    held = (_earlier(folder) or {}).get("objective")
    if held in ("evaluate", "features", "probe"):
        raise ConfigError(
            f"run.output {folder.path}: holds results of `{held}`; choose another, such as {folder.path}_{recipe.command}"
        )


def _require_no_input(folder: RunFolder, recipe: Recipe) -> None:
    """Raise if ``folder`` is a folder of videos or of weights that ``recipe`` reads: what is written there would be read."""
    for setting, path in inputs_of(recipe).items():
        if path.is_dir() and path.resolve() == folder.path.resolve():
            raise ConfigError(
                f"run.output {folder.path}: is the folder of {setting}; choose another, such as {folder.path}_{recipe.command}"
            )


def _require_same_command(folder: RunFolder, recipe: Recipe, earlier: Mapping[str, Any] | None) -> None:
    if earlier is not None and earlier.get("objective") != dump(recipe)["objective"]:
        held = f"a run with objective {earlier.get('objective')}"
        raise ConfigError(f"run.output {folder.path}: holds {held}; choose another, such as {folder.path}_{recipe.command}")


def _earlier(folder: RunFolder) -> dict[str, Any] | None:
    """Return the recipe that the folder holds, or None if it holds none that can be read."""
    try:
        earlier = yaml.safe_load((folder.path / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return earlier if isinstance(earlier, dict) else None
