"""Every head of prompts by name."""

from __future__ import annotations

from mvd_ds.config import ConfigError, PromptSettings
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.prompts.cocoop import CoCoOpHead
from mvd_ds.models.prompts.coop import CoOpHead
from mvd_ds.models.prompts.head import PromptBase, PromptHead
from mvd_ds.models.prompts.metaprompt import MetaPromptHead
from mvd_ds.models.prompts.vpt import VptHead

PROMPTS: dict[str, type[PromptHead]] = {
    "coop": CoOpHead,
    "cocoop": CoCoOpHead,
    "metaprompt": MetaPromptHead,
    "vpt": VptHead,
}
"""Every head of prompts, by its name in ``heads`` of ``probe``."""


def build_prompts(kind: str, base: PromptBase, settings: PromptSettings, seed: int) -> PromptHead:
    """Return a head of ``PROMPTS`` with the initial vectors of ``seed``.

    Raises:
        ConfigError: if it reads words and there is no text tower, or the towers do not take its vectors.
    """
    if PROMPTS[kind].needs_words and base.towers is None:
        raise ConfigError(f"{kind} reads the names of classes, and these weights have no text tower; train them with language")
    head = initialise(PROMPTS[kind](base, settings), seed)
    head.start()
    return head
