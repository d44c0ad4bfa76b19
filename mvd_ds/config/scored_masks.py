"""The check of masks that follow a teacher's attention or the motion of a clip, against the rest of a recipe."""

from __future__ import annotations

from typing import Any

from mvd_ds.config.teachers import ATTENTION


def require_scored_masks(recipe: Any) -> None:
    """Check masks that scores draw against the rest of a ``TrainingRecipe``, and have the teacher they ask give its attention.

    Raises:
        ValueError: in one line, if they do not fit.
    """
    masking = recipe.masking
    for name, teacher in recipe.teachers.items():
        teacher.give_attention(masking.blocks if name == masking.teacher else ())
    if masking.kind == "attention":
        if masking.teacher not in recipe.teachers:
            known = ", ".join(recipe.teachers) or "none: stage one has pixels"
            raise ValueError(f"masking.teacher '{masking.teacher}' is not under teachers ({known})")
        if ATTENTION in recipe.outputs:
            raise ValueError(f"masking.kind attention: no teacher or target may be named {ATTENTION}")
        teacher = recipe.teachers[masking.teacher]
        for block in () if masking.blocks == "all" or teacher.network else masking.blocks:
            if not -teacher.depth <= block < teacher.depth:
                raise ValueError(f"masking.blocks: {block} is outside teachers.{masking.teacher} of {teacher.depth} blocks")
    if masking.view_area is not None:
        tokens = {name: output.head(1).tokens for name, output in recipe.outputs.items()}
        odd = next((name for name, at in tokens.items() if at != "summary"), None)
        if odd is not None or (recipe.language is not None and recipe.language.sees == "all"):
            what = "language.sees all" if odd is None else f"{odd}, which is predicted at {tokens[odd]} tokens"
            raise ValueError(f"masking.view_area: views are compared with summaries and visible captions alone: remove {what}")
    if masking.kind == "motion" and recipe.grid[0] < 2:
        raise ValueError(f"masking.kind motion needs clips of two slots or more, the grid is {recipe.grid}")
    if not masking.is_scored:
        return
    _, cells, _ = masking.cells(recipe.grid)
    first, hinted = masking.hinted(cells)
    visible = cells - int(masking.ratio * cells)
    if masking.pick == "hint" and not 0 < hinted <= visible:
        raise ValueError(
            f"masking.pick hint leaves {hinted} of the {first} highest of {cells} cells visible, and masking.ratio "
            f"{masking.ratio} leaves {visible}: choose hint_from and hint_share so that it is 1 to {visible}"
        )
