"""Settings of how much of a pretrained encoder is trained for a task."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import Positive, Settings
from mvd_ds.config.networks.prompts import PROMPT_HEADS


class AdaptationSettings(Settings):
    """A rung of the ladder from a frozen encoder to full fine-tuning. ``adaptation: NAME`` is short for ``{kind: NAME}``."""

    kind: Literal["full", "lora", "frozen", "coop", "cocoop", "metaprompt", "vpt"] = "full"
    """full: every weight is trained; lora: products of two small matrices beside the maps of a frozen encoder, merged into them
    in the models that are written; frozen: pooling and head alone, linear with pooling mean. Source: VideoGLUE
    (arXiv 2307.03166), whose four ways these are, with pooling attention of several layers for its attention pooler. coop,
    cocoop, metaprompt, vpt: learned vectors beside the names of classes or among the tokens of frozen towers, as ``prompt``
    says; they alone are trained and written."""
    rank: Positive = 8
    """lora: inner width of the products. Source: LoRA, Hu et al. 2021 (arXiv 2106.09685), 1 to 64."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """lora: products are multiplied by alpha / rank."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """lora: blocks that get them, 0 the first (None: all)."""
    parts: Annotated[tuple[Literal["qkv", "projection", "mlp"], ...], Field(min_length=1)] = ("qkv",)
    """lora: maps of a block that get them: queries, keys and values as one, the projection behind them, those of the MLP."""

    @property
    def learns_prompts(self) -> bool:
        """True if learned vectors are all that is trained."""
        return self.kind in PROMPT_HEADS

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, values: Any) -> Any:
        return {"kind": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _check(self) -> AdaptationSettings:
        odd = sorted(self.model_fields_set - {"kind"})
        if self.kind != "lora" and any(getattr(self, key) != type(self).model_fields[key].default for key in odd):
            raise ValueError(f"{', '.join(odd)} belong to adaptation lora, not to {self.kind}")
        for key in ("layers", "parts"):  # a map named twice would get its product twice
            named = getattr(self, key)
            if named is not None and len(set(named)) != max(len(named), 1):
                raise ValueError(f"adaptation.{key} {list(named)}: give at least one, and each once")
        return self
