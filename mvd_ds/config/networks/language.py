"""Settings of language: the text tower beside the student's encoder, and the loss between clips and their captions."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import PathText, Positive, Settings
from mvd_ds.config.networks.text_folder import TextFolder, read_text_folder
from mvd_ds.files import ConfigError, one_line, read_json

LANGUAGE = "language"
"""Name of the loss between clips and captions among those of a run."""
_OWN = ("embed_dim", "depth", "num_heads")
_OF_FOLDER = ("kind", "tokenizer", "context", *_OWN, "causal")
_SPECIAL = 3
"""Tokens beside those of texts: their beginning, their end, and what fills a row up."""


class TextSettings(Settings):
    """The network that reads captions."""

    kind: Literal["own", "shared"] = "own"
    """own: a transformer of its own; shared: the attention and MLP of the student's ``blocks``, with norms and embeddings of its
    own, and blocks of its own between them. Source: CLIP; MS-CLIP (arXiv 2207.12661)."""
    weights: PathText | None = None
    """own: folder of transformers with a CLIP, SigLIP or SigLIP 2, or its name in the Hugging Face cache, whose text tower,
    projection and tokenizer are taken (None: they start from the seed). No code of the folder runs, and no pickle is read."""
    frozen: bool = False
    """The tower of ``weights`` and its projection do not learn, as LiT (arXiv 2111.07991)."""
    tokenizer: PathText | None = None
    """A ``tokenizer.json`` of the package tokenizers (None: the bytes of UTF-8, which need no file)."""
    context: Annotated[int, Field(ge=4, le=8192)] = 128
    """Tokens of a caption, its beginning and end included; longer ones are cut. Source: CLIP, 77 of its own."""
    embed_dim: Positive | None = None
    """own: width (None: 512, as CLIP)."""
    depth: Positive | None = None
    """own: number of blocks (None: 12, as CLIP)."""
    num_heads: Positive | None = None
    """own: heads (None: 8, as CLIP)."""
    causal: bool = True
    """A token sees those before it alone, as CLIP; or all of its caption, as SigLIP."""
    blocks: tuple[int, ...] | None = None
    """shared: the student's blocks that are borrowed (None: all but the first, as MS-CLIP)."""

    @model_validator(mode="after")
    def _check_kind(self) -> TextSettings:
        odd = [key for key in _OWN if getattr(self, key) is not None]
        if self.kind == "shared" and odd:
            raise ValueError(f"language.text.{odd[0]} is for kind own; a shared tower has the student's: remove it")
        if self.kind == "own" and self.blocks is not None:
            raise ValueError("language.text.blocks is for kind shared: remove it")
        if self.weights is None and self.frozen:
            raise ValueError("language.text.frozen is for a tower of language.text.weights; one that starts from the seed learns")
        if self.weights is not None:
            theirs = (key for key in _OF_FOLDER if getattr(self, key) != type(self).model_fields[key].default)
            if key := next(theirs, None):
                raise ValueError(f"language.text.{key}: with language.text.weights it is as the folder says: remove it")
        if self.kind == "own" and (self.embed_dim or 512) % (self.num_heads or 8):
            raise ValueError(
                f"language.text.embed_dim {self.embed_dim or 512} is not divisible by {self.num_heads or 8} num_heads"
            )
        return self

    @property
    def folder(self) -> TextFolder | None:
        """The text tower that the folder of ``weights`` describes; None without weights.

        Raises:
            ConfigError: in one line, if it is no such folder.
        """
        return None if self.weights is None else read_text_folder(self.weights)

    @property
    def length(self) -> int:
        """Tokens of a row: ``context``, or what the folder says."""
        return self.folder.context if self.folder is not None else self.context

    @property
    def vocabulary(self) -> int:
        """Number of tokens: those of the folder, or those of the tokenizer and three special ones behind them.

        Raises:
            ConfigError: if the file of the tokenizer cannot be read, or is none.
        """
        if self.folder is not None:
            return self.folder.vocabulary
        return (256 if self.tokenizer is None else tokens_of_file(self.tokenizer)) + _SPECIAL

    def borrowed(self, depth: int) -> tuple[int, ...]:
        """Return the blocks, 0 to ``depth`` - 1, that a shared tower borrows of a student; none for one of its own."""
        if self.kind == "own":
            return ()
        return tuple(range(1, depth)) if self.blocks is None else tuple(sorted({block % depth for block in self.blocks}))


class LanguageSettings(Settings):
    """The loss between the vector of a clip and that of its caption, over all pairs of a global batch."""

    loss: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: symmetric InfoNCE, as CLIP; sigmoid: of every pair by itself, as SigLIP (arXiv 2303.15343)."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the loss in the total."""
    embed_dim: Positive = 512
    """Width of the space that clips and captions share. Source: CLIP, base."""
    sees: Literal["visible", "all"] = "visible"
    """Tokens that the vector of a clip is made of. visible: those of each mask, from the pass that predicts (A-CLIP, FLIP); all:
    a pass of its own over the whole clip."""
    scale: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    """First factor of the cosines; it is learned, and at most 100. Source (None): that of ``text.weights`` where the folder has
    what the loss asks for, else CLIP 1 / 0.07, SigLIP 10."""
    bias: float = -10.0
    """sigmoid: first value of what is added to them, where no scale is taken from ``text.weights``. Source: SigLIP."""
    text: TextSettings = TextSettings()
    """The network that reads captions."""

    @model_validator(mode="after")
    def _check_bias(self) -> LanguageSettings:
        if self.loss != "sigmoid" and self.bias != type(self).model_fields["bias"].default:
            raise ValueError(f"language.bias is for language.loss sigmoid, not {self.loss}: remove it")
        return self


@functools.lru_cache(maxsize=8)
def tokens_of_file(path: str) -> int:
    """Return the number of tokens of a ``tokenizer.json``, by its largest number.

    Raises:
        ConfigError: in one line, if it is none.
    """
    values = _read_json(path)
    model = values.get("model") if isinstance(values, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        numbers = [number for number in vocabulary.values() if isinstance(number, int)]
    elif isinstance(vocabulary, list):  # of a unigram model: pairs of token and score
        numbers = list(range(len(vocabulary)))
    else:
        numbers = []
    added = values.get("added_tokens") if isinstance(values, dict) else None
    numbers += [token["id"] for token in added or () if isinstance(token, dict) and isinstance(token.get("id"), int)]
    if not numbers or not 0 <= max(numbers) < 2**24:
        raise ConfigError(f"language.text.tokenizer {one_line(path)}: is no tokenizer.json of the package tokenizers")
    return max(numbers) + 1


def _read_json(path: str) -> Any:
    try:
        return read_json(Path(path))
    except ConfigError as error:
        raise ConfigError(f"language.text.tokenizer {error}") from None


def uses_blocks_twice(language: LanguageSettings | None) -> bool:
    """Return whether a step calls blocks of the encoder more than once for the loss of captions."""
    return language is not None and (language.sees == "all" or language.text.kind == "shared")


def require_language(recipe: Any) -> None:
    """Check the language of a ``TrainingRecipe`` against the rest of it.

    Raises:
        ValueError: in one line, if it does not fit.
    """
    language = recipe.language
    others = recipe.teachers or recipe.pixels is not None or recipe.targets != type(recipe.targets)()
    if recipe.objective == LANGUAGE and (language is None or others):
        raise ValueError(
            "objective language needs language, and neither teachers, targets nor pixels: beside those, add language to them"
        )
    if recipe.objective == LANGUAGE and recipe.balance != "fixed":
        raise ValueError(f"balance {recipe.balance} is for teachers, and objective language has none: leave it at fixed")
    if recipe.masking.kind == "none" and recipe.objective != LANGUAGE:
        raise ValueError(f"masking.kind none is for objective language, not {recipe.objective}, which predicts what is hidden")
    if language is None:
        return
    if language.sees == "all" and recipe.objective == LANGUAGE:
        raise ValueError("language.sees all is for a second objective; for objective language choose masking.kind=none")
    if recipe.students:
        raise ValueError("language is for one student, and there are several: remove students, or train each by itself")
    if recipe.data.clips_per_video > 1:
        raise ValueError(
            f"language takes the captions of all other clips of a batch for wrong ones, and data.clips_per_video "
            f"{recipe.data.clips_per_video} puts clips of one video into it: set it to 1"
        )
    if recipe.batch.global_ < 2:
        raise ValueError("language compares the captions of a batch, and batch.global is 1")
    if LANGUAGE in recipe.outputs:
        raise ValueError(f"teachers.{LANGUAGE}: this name is that of the loss of captions; choose another")
    if language.text.kind == "shared":
        if recipe.model.position.startswith("rope"):
            raise ValueError("language.text.kind shared: blocks with rotary positions do not take texts; choose kind own")
        depth = recipe.model.depth
        odd = [block for block in language.text.blocks or () if not -depth <= block < depth]
        if odd or not language.text.borrowed(depth):
            raise ValueError(
                f"language.text.blocks {odd or []}: the student has blocks 0 to {depth - 1}, and one at least is shared"
            )
