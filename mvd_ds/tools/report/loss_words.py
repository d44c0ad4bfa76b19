"""Losses in words, from the recipe of a run, whatever a person has made of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mvd_ds.config.losses import loss_title

LOSS_WORDS = {"smooth_l1": "smooth L1", "l1": "L1", "l2": "squared error"}
"""Names of losses as a reader knows them, where they are not those of the settings."""
KINDS = {
    "relations": "KL divergence",
    "token_relations": "difference of cosines",
    "summary": "angle",
    "prototypes": "cross-entropy",
}
"""Losses of kinds of targets that no setting names."""


def loss_kinds(recipe: dict[str, Any]) -> dict[str, str]:
    """Return the loss of every output of a recipe in words, by its name in the metrics."""
    if isinstance(pixels := recipe.get("pixels"), dict):
        return {"pixels": _words(pixels.get("loss"))}
    if recipe.get("objective") == "classification":
        task = recipe.get("task", "classes")
        real = _words(recipe.get("regression_loss"))
        told = {"multilabel": "binary cross-entropy", "regression": f"{real} of standardised numbers"}
        return {task: told[task]} if task in told else {"class": "cross-entropy"}
    found: dict[str, str] = {}
    teachers = recipe.get("teachers")
    for name, settings in teachers.items() if isinstance(teachers, dict) else ():
        if isinstance(settings, dict):
            own, more = settings.get("loss"), settings.get("more_targets")
            found[str(name)] = _of_target(settings.get("target"), own)
            for key, target in more.items() if isinstance(more, dict) else ():
                found[f"{name}_{key}"] = _of_target(target, own)
    return found | ({"labels": "cross-entropy"} if recipe.get("labels") else {})


def in_words(kinds: Iterable[str]) -> str:
    """Return losses in words, each once."""
    return ", ".join(dict.fromkeys(filter(None, kinds))) or "no unit"


def _of_target(target: Any, own: Any) -> str:
    settings = target if isinstance(target, dict) else {}
    return _words(settings.get("loss")) or KINDS.get(str(settings.get("kind"))) or _words(own)


def _words(loss: Any) -> str:
    try:
        title = loss_title(loss) if isinstance(loss, dict) else str(loss or "")
    except (TypeError, ValueError):
        return ""
    return re.sub(r"\w+", lambda found: LOSS_WORDS.get(found[0], found[0]), title)
