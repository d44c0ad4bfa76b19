"""A comparison of the weights that a result was measured on with those that lie under the same path now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvd_ds.files import read_json
from mvd_ds.training.reporting.provenance import digest

_PATIENCE_SECONDS = 2.0
"""Weights whose file is younger than a result by less than this count as older: clocks of file systems are coarse."""


def changed_weights(run: Path, product: str, recipe: dict[str, Any]) -> list[str]:
    """Return the paths of weights that have changed since ``run/product`` was written.

    Digests that the run recorded decide. Without them, files that are younger than the product have changed. Weights that are
    gone cannot be compared and count as unchanged.

    Args:
        run: folder of a probe or evaluation run.
        product: name of the file with its results.
        recipe: settings of the run.
    """
    recorded = _recorded_digests(run, product)
    changed = []
    for setting, weights in _weights_of(recipe).items():
        path = Path(weights)
        if not path.exists():
            continue
        known = recorded.get(setting)
        if known is not None:
            is_changed = digest(path) != known
        else:
            is_changed = _newest(path) > (run / product).stat().st_mtime + _PATIENCE_SECONDS
        if is_changed and weights not in changed:
            changed.append(weights)
    return changed


def _weights_of(recipe: dict[str, Any]) -> dict[str, str]:
    """Return the paths of weights by the name of their setting."""
    found = {"weights": recipe.get("weights")}
    models = recipe.get("models")
    for name, model in models.items() if isinstance(models, dict) else ():
        found[f"models.{name}.weights"] = model.get("weights") if isinstance(model, dict) else None
    return {setting: weights for setting, weights in found.items() if isinstance(weights, str)}


def _recorded_digests(run: Path, product: str) -> dict[str, Any]:
    """Return digests by setting from the product, or from the newest attempt that tells any."""
    for path in (run / product, *sorted((run / "attempts").glob("attempt-*.json"), reverse=True)):
        content = read_json(path)
        digests = content.get("digests") if isinstance(content, dict) else None
        if isinstance(digests, dict):
            return digests
    return {}


def _newest(path: Path) -> float:
    files = [path] if path.is_file() else [inner for inner in path.rglob("*.safetensors") if inner.is_file()]
    return max((file.stat().st_mtime for file in files), default=0.0)
