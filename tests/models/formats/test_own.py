"""Descriptions of our own model folders and checkpoints."""

from __future__ import annotations

import pytest

from mvd_ds.config import ConfigError, dump, load_recipe
from mvd_ds.models.formats.own import recipe_of


def test_a_checkpoint_of_a_classifier_says_where_the_classifier_is() -> None:
    config = {"format": "mvd_ds", "version": 1, "recipe": dump(load_recipe("finetune_folder", [], "finetune"))}
    with pytest.raises(
        ConfigError, match=r"^runs/pets: a checkpoint of objective classification .* the folder model of its run, or best"
    ):
        recipe_of(config, "runs/pets")
