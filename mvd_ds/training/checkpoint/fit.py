"""The comparison of a checkpoint with the run that is to go on from it: settings, and contents of inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvd_ds.config import ConfigError, LearningRecipe, differences, dump, validate
from mvd_ds.training.contents import compare_contents

#: Settings that may differ between the attempts of one run; every other difference is refused on resume.
MAY_CHANGE = re.compile(
    r"run\.(?!seed)|data\.(root|reader|max_pixels|workers|prefetch_batches|remote|max_bad_share|stall_seconds)|schedule\.|"
    r"optimizer\.(?!layer_decay)|batch\.micro|targets\.(cache|store|clips_per_file)|"
    r"engine\.|model\.(attention|activation_checkpointing)|validation\.|weights: |teacher\.(weights|placement): |"
    r"teachers\.\w+\.(weights|placement|attention|chunk_clips|cuda_graph)"
)
#: Inputs that may have other contents: they change how a run is computed or measured, not what it learns from.
CONTENTS_MAY_CHANGE = re.compile(r"engine\.|validation\.")


def changes_since(manifest: Mapping[str, Any], where: Path, recipe: LearningRecipe, contents: Mapping[str, str]) -> list[str]:
    """Return a line for every setting and input that has changed since a checkpoint, all of which may.

    Args:
        manifest: the checkpoint's manifest; one of an older version has no ``contents``, which are not compared then.
        where: the checkpoint's folder.
        recipe: the recipe of now.
        contents: digests of the inputs of now by setting.

    Raises:
        ConfigError: in one line, if settings differ that decide what is trained, or inputs have other contents.
    """
    earlier = _with_defaults(manifest["recipe"], str(where))
    compared = compare_contents(earlier, manifest.get("contents") or {}, recipe, contents)
    accepted = recipe.run.accept_changed
    replaced = [name for name in compared.changed if not (CONTENTS_MAY_CHANGE.match(name) or name in accepted)]
    if replaced:
        raise ConfigError(
            f"{where} cannot be resumed: the content of {', '.join(replaced)} is not what it was; bring it back, use another "
            f"run.output, or go on with the new content by run.accept_changed=[{','.join([*accepted, *replaced])}]"
        )
    lines = differences(compared.recipe, dump(recipe))
    refused = [line for line in lines if not MAY_CHANGE.match(line) and line.partition(": ")[0] not in accepted]
    if refused:
        raise ConfigError(
            f"{where} cannot be resumed, these differ: {'; '.join(refused)}; set them back, or use another run.output"
        )
    return lines + compared.moved + [f"{name}: other contents" for name in compared.changed]


def _with_defaults(recipe: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return a recipe as this version would dump it: settings that it did not have yet are at their defaults."""
    try:
        return dump(validate(recipe, origin))
    except ConfigError:
        return recipe
