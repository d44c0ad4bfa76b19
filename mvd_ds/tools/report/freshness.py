"""A comparison of the inputs that a result was measured on with those that lie under the same paths now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvd_ds.config import load_recipe
from mvd_ds.files import ConfigError, read_json
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.training.run_folder import RunFolder

_PATIENCE_SECONDS = 2.0
"""Weights whose file is younger than a result by less than this count as older: clocks of file systems are coarse."""


def changed_inputs(folder: RunFolder, product: str, recipe: dict[str, Any]) -> list[str]:
    """Return the inputs of a run, as ``setting PATH``, that have changed since its results were written.

    Digests that the run recorded decide. A run without them has changed weights if their files are younger than its results.
    Inputs that are gone cannot be compared and count as unchanged.

    Args:
        folder: folder of a probe or evaluation run.
        product: name of the file with its results.
        recipe: settings of the run.

    Raises:
        ConfigError: if ``contents.json`` is damaged.
    """
    paths = _weights_of(recipe)
    if not folder.contents.exists():
        written = (folder.path / product).stat().st_mtime + _PATIENCE_SECONDS
        return [f"{setting} {path}" for setting, path in paths.items() if _newest(Path(path).expanduser()) > written]
    recorded = read_json(folder.contents)
    try:
        now = contents_with_videos(load_recipe(str(folder.path / "recipe.yaml")), folder.digests)
    except (ConfigError, OSError):  # settings of another version, or an input that cannot be read: nothing to compare
        return []
    changed = [setting for setting in sorted(recorded.keys() & now.keys()) if recorded[setting] != now[setting]]
    return [f"{setting} {paths.get(setting, '')}".strip() for setting in changed]


def _weights_of(recipe: dict[str, Any]) -> dict[str, str]:
    """Return the paths of weights by the name of their setting."""
    found = {"weights": recipe.get("weights")}
    models = recipe.get("models")
    for name, model in models.items() if isinstance(models, dict) else ():
        found[f"models.{name}.weights"] = model.get("weights") if isinstance(model, dict) else None
    return {setting: weights for setting, weights in found.items() if isinstance(weights, str)}


def _newest(path: Path) -> float:
    """Return the time of the newest file of weights at ``path``; 0 if there is none."""
    inside = path.rglob("*.safetensors") if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in inside if file.is_file()), default=0.0)
