"""Settings of prompts: learned vectors among the tokens of frozen towers, and the protocol that asks what they learnt to say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mvd_ds.config.base import PathText, Positive, Settings

PromptKind = Literal["coop", "cocoop", "metaprompt", "vpt"]
"""Names of the heads that learn prompts: rows of ``models.prompts.PROMPTS``."""
PROMPT_HEADS: tuple[str, ...] = ("coop", "cocoop", "metaprompt", "vpt")
"""The same names, in a tuple."""
WORD_HEADS = ("zero_shot", "coop", "cocoop", "metaprompt")
"""Heads that read the names of classes, so they need a text tower."""


class PromptSettings(Settings):
    """The learned vectors of the prompt heads ``coop``, ``cocoop``, ``metaprompt`` and ``vpt``; both towers are frozen."""

    words: dict[str, PathText] = {}  # noqa: RUF012 - settings are frozen
    """Label -> file of words for its classes, as ``evaluate`` takes (a label without: the class names of the manifest). Learned
    vectors stand beside the first word of a class; templates are for texts without them."""
    context: Positive = 4
    """coop, cocoop: learned vectors beside the name of a class. Source: CoOp (arXiv 2109.01134), 16;
    CoCoOp (arXiv 2203.05557), 4."""
    start: str | None = None
    """coop, cocoop: a text whose tokens the vectors start from, in place of ``context`` drawn ones. Source: CoCoOp, "a photo
    of a"."""
    place: Literal["end", "middle"] = "end"
    """coop, cocoop: the name stands behind the vectors, or half of them stand behind it. Source: CoOp."""
    per_class: bool = False
    """coop: vectors for each class of its own; then it has no answer for classes that it has not seen. Source: CoOp."""
    hidden: Positive | None = None
    """cocoop: width inside of the network that shifts the vectors by the clip (None: a 16th of a clip's vector). Source:
    CoCoOp."""
    deep: Positive = 2
    """metaprompt, vpt: vectors in front of each block. Source: MetaPrompt (TIP 2024), 2; VPT (arXiv 2203.12119), 1 to 200."""
    blocks: Positive | None = None
    """metaprompt, vpt: the first blocks, which get them (None: all). Those of the last one pass through the others."""
    meta_step: Annotated[float, Field(ge=0.0)] = 0.2
    """metaprompt: factor of the gradients that prompts of texts, moved by one half of the classes, have on the other half (0: no
    such episodes). Source: MetaPrompt, 0.2."""
    inner_rate: Annotated[float, Field(gt=0.0)] | None = None
    """metaprompt: rate of that move, plain gradient descent (None: that of the step). Source: MetaPrompt, that of the step."""


_OWN: dict[str, tuple[str, ...]] = {
    "coop": ("words", "context", "start", "place", "per_class"),
    "cocoop": ("words", "context", "start", "place", "hidden"),
    "metaprompt": ("words", "deep", "blocks", "meta_step", "inner_rate"),
    "vpt": ("deep", "blocks"),
}
"""Settings that each head has."""


class BaseToNewSettings(Settings):
    """Fit on the clips of half of the classes, then tell classes of that half apart, and those of the other half.

    Source: CoCoOp (arXiv 2203.05557). A head that reads names can answer for the other half; others have no answer there.
    """

    pick: Literal["first", "drawn"] = "first"
    """The base half. first: the first classes, in the order of the manifest, as CoCoOp; drawn: from ``run.seed``."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the classes that is base, rounded up."""


def require_prompt_heads(recipe: Any, vector_heads: tuple[str, ...]) -> None:
    """Check the heads of prompts of a ``ProbeRecipe``, and those that ``base_to_new`` takes, against the rest of it.

    Args:
        recipe: the probe run.
        vector_heads: heads that take one vector a clip.

    Raises:
        ValueError: in one line, if they do not fit.
    """
    prompts = [head for head in recipe.heads if head in (*PROMPT_HEADS, *WORD_HEADS)]
    if prompts and recipe.blocks != "last":
        raise ValueError(f"blocks: {prompts[0]} answers after the last block; remove it from heads, or take blocks: last")
    if prompts and recipe.order:  # ways of playing have no names that a text tower has learnt
        raise ValueError(f"order: {prompts[0]} reads the names of classes, and ways of playing have none; remove it from heads")
    halved = [head for head in recipe.heads if head not in (*vector_heads, *PROMPT_HEADS, *WORD_HEADS)]
    if recipe.base_to_new is not None and (halved or recipe.order):
        raise ValueError(
            f"base_to_new is for the heads {', '.join(dict.fromkeys((*vector_heads, *WORD_HEADS, *PROMPT_HEADS)))}, without "
            f"order; remove {halved[0] if halved else 'order'}"
        )


def require_prompts(recipe: Any) -> None:
    """Check the prompts of a ``FinetuneRecipe`` against the rest of it.

    Args:
        recipe: the fine-tuning run.

    Raises:
        ValueError: in one line, if they do not fit.
    """
    kind, prompt, fresh = recipe.adaptation.kind, recipe.prompt, PromptSettings()
    changed = [key for key in PromptSettings.model_fields if getattr(prompt, key) != getattr(fresh, key)]
    odd = [key for key in changed if key not in _OWN.get(kind, ())]
    if odd:
        owners = [name for name, keys in _OWN.items() if odd[0] in keys]
        raise ValueError(f"prompt.{odd[0]} is for adaptation {', '.join(owners)}, not {kind}: leave it out")
    if kind not in _OWN:
        return
    if recipe.weights is None:
        raise ValueError(f"adaptation {kind} learns prompts for a trained network: set weights")
    if recipe.task != "classes":
        raise ValueError(f"adaptation {kind} tells one class of a video, not task {recipe.task}: take adaptation frozen")
    for key, default in (("keep_head", False), ("dropout", 0.0), ("pooling", type(recipe.pooling)())):
        if getattr(recipe, key) != default:
            raise ValueError(f"{key} is for class heads, and adaptation {kind} has a head of its own: leave {key} out")
    for key in ("drop_path", "activation_checkpointing"):
        if getattr(recipe.model, key):
            raise ValueError(f"model.{key} {getattr(recipe.model, key)}: adaptation {kind} trains no block; set it to 0")
    if recipe.engine.compile == "blocks":
        raise ValueError(f"engine.compile blocks: the frozen blocks of adaptation {kind} are not compiled; leave it out")
    if kind == "metaprompt" and prompt.meta_step and recipe.augmentation.mix is not None:
        raise ValueError("augmentation.mix blends classes, of which episodes take halves: set it to null, or prompt.meta_step=0")
