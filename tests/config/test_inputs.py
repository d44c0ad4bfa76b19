"""The inputs of a recipe: paths, and names of networks in Hugging Face's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.config import load_recipe
from mvd_ds.config.inputs import inputs_of, missing_inputs


def test_a_network_of_the_cache_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights have the name of the network, which is no path."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    weights = ["teachers.image.weights=someone/network", "teachers.video.weights=random"]
    recipe = load_recipe("mvd_large_from_large", [f"data.manifest={__file__}", *weights])
    assert missing_inputs(recipe) == ["teachers.image.weights: someone/network is not there"]
    repository = tmp_path / "models--someone--network"
    snapshot = repository / "snapshots/1a"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("1a")
    assert missing_inputs(recipe) == [] and inputs_of(recipe)["teachers.image.weights"] == snapshot
