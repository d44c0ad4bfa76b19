"""A training by the name of its recipe, as ``mvd_ds.train`` starts it from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvd_ds.config import ConfigError, FinetuneRecipe, TrainingRecipe, find_recipe, load_recipe
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.runs.finetune import finetune
from mvd_ds.runs.tokenizers.learn import learn_tokenizer
from mvd_ds.runs.train import train
from mvd_ds.training.run_folder import FINISHED, RunFolder


def train_by_name(recipe: str, overrides: Sequence[str]) -> Path:
    """Train a recipe of pretrain, distill, tokenizer or finetune in this process, and return the run's folder.

    Args:
        recipe: name of a shipped recipe, or a YAML file.
        overrides: ``key=value`` settings that replace the recipe's.

    Raises:
        ConfigError: for whatever the user can mend, and if the run was stopped before its end.
    """
    for override in overrides:
        if not isinstance(override, str):
            form = 'mvd_ds.train(RECIPE, "run.output=runs/mine", "batch.micro=4")'
            raise ConfigError(f"train: settings are texts, not a {type(override).__name__}: {form}")
    name, settings = find_recipe(recipe).stem, load_recipe(recipe, tuple(overrides))
    if isinstance(settings, FinetuneRecipe):
        code = finetune(settings, name)
    elif isinstance(settings, TokenizerRecipe):
        code = learn_tokenizer(settings, name)
    elif isinstance(settings, TrainingRecipe):
        code = train(settings, name)
    else:
        raise ConfigError(
            f"train: {recipe} is a recipe of `{settings.command}`; it takes pretrain, distill, tokenizer and finetune"
        )
    folder = RunFolder.of(settings, name).path
    if code != FINISHED:
        raise ConfigError(f"train: the run in {folder} was stopped; call it again to go on")
    return folder
