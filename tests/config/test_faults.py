"""A misspelt setting is answered with the one that was meant, also by the names of other trainers."""

from __future__ import annotations

import pytest

from mvd_ds.config import ConfigError, dump, faults, leaves, load_recipe, recipe_names

DISTILL, PROBE = "quickstart_distill", "quickstart_probe"
FULL = {name: dump(load_recipe(name)) for name in recipe_names()}


def _message(recipe: str, overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, overrides)
    return str(caught.value)


SYNONYMS = {
    "lr": "optimizer.base_lr",
    "learning_rate": "optimizer.base_lr",
    "epochs": "schedule.epochs",
    "batch_size": "batch.global",
    "img_size": "data.clip.size_px",
    "num_frames": "data.clip.frames",
    "data.num_frames": "data.clip.frames",
    "output_dir": "run.output",
    "num_workers": "data.workers",
    "data.num_workers": "workers",
    "frames": "data.clip.frames",
    "seed": "run.seed",
    "mask_ratio": "masking.ratio",
    "weight_decay": "optimizer.weight_decay",
    "optimizer.lr": "base_lr",
}


@pytest.mark.parametrize("name", SYNONYMS)
def test_names_of_other_trainers_are_known(name: str) -> None:
    assert _message(DISTILL, [f"{name}=1"]) == f"command line: {name}: unknown setting; did you mean '{SYNONYMS[name]}'?"


def test_synonyms_lead_to_settings_that_the_recipe_has() -> None:
    assert _message(PROBE, ["batch_size=1"]).endswith("did you mean 'batch'?")
    known = {key for tree in FULL.values() for key in (*leaves(tree), *tree)}
    assert [path for path in faults.SYNONYMS if path not in known] == []
