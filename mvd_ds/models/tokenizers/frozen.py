"""A tokenizer as a frozen teacher holds it: its tokens go in, their codes come out.

Of a tokenizer of pixels the teacher is the encoder, so that the rest is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from mvd_ds.config import TeacherSettings
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.models.blueprint import Blueprint
from mvd_ds.models.formats.strict import copy_strictly
from mvd_ds.models.tokenizers.folder import DEVIATION, MEAN, VECTORS, read_tokenizer
from mvd_ds.models.tokenizers.nearest import nearest_codes
from mvd_ds.models.tokenizers.network import TokenEncoder

#: Keeps a constant channel from dividing by zero; that of ``objectives.standardisers``, whose result this has to be.
STABILISER = 1e-6


class FrozenTokenizer(nn.Module):
    """The encoder of a tokenizer and its codes.

    Vectors and scales are fp32 whatever the teacher computes in, so that a token has the code that it had in training.

    Args:
        recipe: the recipe that it was learned by.
        tensors: of ``read_tokenizer``; the encoder's own are not taken from them here.
    """

    vectors: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, recipe: TokenizerRecipe, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoder = TokenEncoder(recipe)
        self.is_scaled = recipe.standardises and not recipe.sees_pixels
        kept = {"vectors": VECTORS} | ({"mean": MEAN, "deviation": DEVIATION} if self.is_scaled else {})
        for name, key in kept.items():
            self.register_buffer(name, tensors[key].float(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map a teacher's tokens (B, N, D), any float type, to their codes int64 (B, N, 1)."""
        tokens = tokens.float()
        if self.is_scaled:
            tokens = (tokens - self.mean) / (self.deviation + STABILISER)
        return nearest_codes(self.encoder(tokens), self.vectors)[..., None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow a change of device and type: the encoder does, vectors and scales keep their type."""
        own = dict(self._buffers)
        self._buffers = dict.fromkeys(own)
        super()._apply(fn, recurse)
        self._buffers = {name: None if value is None else value.to(fn(value).device) for name, value in own.items()}
        return self


class PlannedTokenizer(Blueprint[FrozenTokenizer]):
    """A frozen tokenizer that was found to fit, before its encoder takes memory.

    Args:
        folder: the tokenizer's folder.

    Raises:
        ConfigError: if there is no tokenizer, or it is damaged.
    """

    def __init__(self, folder: str) -> None:
        card, tensors = read_tokenizer(folder)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(("pixels.", "decoder."))}

        def fill(name: str, module: nn.Module) -> None:
            copy_strictly(module, {key: tensors[f"{name}.{key}"] for key, _ in module.named_parameters(recurse=False)}, folder)

        super().__init__(lambda: FrozenTokenizer(card.recipe, tensors), fill)


def plan_tokenizers(name: str, settings: TeacherSettings) -> dict[str, PlannedTokenizer]:
    """Return the tokenizers of a teacher by name of the output.

    Args:
        name: name of the teacher.

    Raises:
        ConfigError: if one is missing or damaged.
    """
    targets = {name + suffix: target for suffix, target in settings.targets.items()}
    return {output: PlannedTokenizer(target.codebook) for output, target in targets.items() if target.codebook is not None}
