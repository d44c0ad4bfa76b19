"""This module compares the teacher of a tokenizer with the teacher whose tokens a student is to learn the codes of."""

from __future__ import annotations

from pathlib import Path

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.config.tokenizers.card import read_card
from mvd_ds.training.console import say
from mvd_ds.training.contents import contents_of


def teacher_digest(recipe: TrainingRecipe, name: str, cache: Path | None = None) -> str | None:
    """Return the digest of the weights of teacher ``name``; None for random ones.

    Args:
        cache: as of ``contents_of``.
    """
    return None if recipe.teachers[name].is_random else contents_of(recipe, cache).get(f"teachers.{name}.weights")


def card_digest(recipe: TrainingRecipe, name: str, suffix: str, cache: Path | None = None) -> str | None:
    """Return the digest of the weights that the codes of a target belong to: of a tokenizer of pixels that of its own folder.

    Args:
        name: name of the teacher.
        suffix: what follows it in the name of the output.
        cache: as of ``contents_of``.
    """
    target = recipe.teachers[name].targets[suffix]
    assert target.codebook is not None
    card = read_card(target.codebook)
    setting = f"teachers.{name}.{f'more_targets.{suffix[1:]}' if suffix else 'target'}.codebook"
    return contents_of(recipe, cache).get(setting) if card.recipe.sees_pixels else card.teacher_digest


def require_own_tokenizers(recipe: TrainingRecipe, cache: Path | None = None) -> None:
    """Refuse tokenizers that were made for a teacher of other weights, and say where one computed in another precision.

    Args:
        recipe: the run that learns codes.
        cache: as of ``contents_of``.

    Raises:
        ConfigError: naming the tokenizer and the teacher.
    """
    for name, teacher in recipe.teachers.items():
        for suffix, target in teacher.targets.items():
            if target.kind != "codes" or target.codebook is None:
                continue
            card, digest = read_card(target.codebook), card_digest(recipe, name, suffix, cache)
            if digest != teacher_digest(recipe, name, cache):
                remedy = f"learn one for this teacher: `tokenizer RECIPE teachers.NAME.weights={teacher.weights}`"
                if card.recipe.sees_pixels:
                    remedy = f"it has an encoder of its own: teachers.{name}.weights={target.codebook}"
                raise ConfigError(
                    f"teachers.{name}: codebook {target.codebook} was made for other weights than {teacher.weights}; {remedy}"
                )
            if card.precision != recipe.engine.precision:
                say(
                    f"teacher {name}: codebook {target.codebook} was learned in {card.precision}, and tokens are read in "
                    f"{recipe.engine.precision} here: those halfway between two codes may get the other one"
                )
