"""The description of a finished tokenizer: its codebook, and the teacher that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.config.load import differences, dump, validate
from mvd_ds.config.recipes import TrainingRecipe
from mvd_ds.config.targets import TargetSettings
from mvd_ds.config.teachers import TeacherSettings
from mvd_ds.config.tokenizers.recipe import READ, TokenizerRecipe
from mvd_ds.files import ConfigError, one_line, read_json

FORMAT, VERSION = "mvd_ds_tokenizer", 1
CARD_NAME = "config.json"
#: Settings of a teacher that do not change what it gives, or are about what is learnt of it.
_FREE: tuple[str, ...] = (
    "weights",
    "size",
    "placement",
    "drop_path",
    "activation_checkpointing",
    "attention",
    "chunk_clips",
    "fp8",
    "cuda_graph",
)
_FREE += ("target", "more_targets", "decoder", "loss", "weight", "network_style")


class TokenizerCard(NamedTuple):
    """The recipe of a tokenizer and the digest of its teacher, as its folder states them."""

    recipe: TokenizerRecipe
    """The recipe that it was learned by."""
    teacher_digest: str | None
    """Digest of the weights of its teacher; None for random ones, which are those of ``run.seed``."""

    @property
    def codes(self) -> int:
        """Number of codes."""
        return self.recipe.tokenizer.codes

    @property
    def precision(self) -> str:
        """Precision that its teacher computed in."""
        return self.recipe.engine.precision

    @property
    def is_tokenwise(self) -> bool:
        """True if the code of a token depends on that token alone."""
        return self.recipe.token_blocks == 0

    def flops(self, tokens: int) -> int:
        """Return the operations that it takes to find the codes of ``tokens`` tokens, encoder left out."""
        width, inner = self.recipe.code_width, self.recipe.model.embed_dim
        to_code = 0 if self.recipe.tokenizer.method == "kmeans" else 2 * inner * (inner + width)
        return tokens * (to_code + 2 * self.codes * width)


def card_values(recipe: TokenizerRecipe, teacher_digest: str | None, step: int) -> dict[str, Any]:
    """Return what the ``config.json`` of a tokenizer's folder says."""
    return {"format": FORMAT, "version": VERSION, "step": step, "teacher_digest": teacher_digest, "recipe": dump(recipe)}


def read_card(folder: str | Path) -> TokenizerCard:
    """Return the card of a tokenizer's folder.

    Raises:
        ConfigError: if there is no tokenizer.
    """
    path = Path(folder) / CARD_NAME
    if not path.is_file():
        raise ConfigError(f"{folder}: there is no file {path}; give the folder RUN/model that `tokenizer` wrote")
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ConfigError(f"{path}: is no tokenizer; give the folder RUN/model that `tokenizer` wrote")
    if values.get("version") != VERSION:
        raise ConfigError(f"{path}: has version {one_line(values.get('version'), 20)} of tokenizers; this is version {VERSION}")
    recipe, digest = values.get("recipe"), values.get("teacher_digest")
    if not isinstance(recipe, dict) or not (digest is None or isinstance(digest, str)):
        raise ConfigError(f"{path}: is damaged: recipe or teacher_digest is not what `tokenizer` writes")
    read = validate(recipe, str(path))
    if not isinstance(read, TokenizerRecipe):
        raise ConfigError(f"{path}: its recipe has objective {read.objective}, not tokenizer")
    return TokenizerCard(read, digest)


def find_card(target: TargetSettings, setting: str) -> TokenizerCard | None:
    """Return the card of the tokenizer that ``target`` names, None where it names none, or where its folder is not there yet and
    the number of its codes is stated.

    Raises:
        ConfigError: if there is no tokenizer, or it has another number of codes.
    """
    if target.codebook is None or (target.codes is not None and not Path(target.codebook).exists()):
        return None
    try:
        card = read_card(target.codebook)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from None
    if target.codes not in (None, card.codes):
        raise ConfigError(
            f"{setting} {target.codebook}: has {card.codes} codes, and target.codes is {target.codes}; remove target.codes"
        )
    return card


def require_same_teacher(recipe: TrainingRecipe, name: str, target: TargetSettings, setting: str) -> None:
    """Refuse a tokenizer whose tokens are not those that ``target`` reads of teacher ``name``.

    Of a tokenizer of pixels the teacher is its own encoder, from the folder of the tokenizer.

    Args:
        recipe: the run that learns its codes.
        setting: the setting that names the tokenizer, for the message.

    Raises:
        ConfigError: if there is no tokenizer; in one line, with every difference from the tokenizer's teacher to this one.
    """
    assert target.codebook is not None
    try:
        card = read_card(target.codebook)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from None
    of_card = _identity(card.recipe, card.recipe.teacher, card.recipe.teacher.target)
    lines = differences(of_card, _identity(recipe, recipe.teachers[name], target))
    if not card.is_tokenwise and card.recipe.grid != recipe.grid:
        lines.append(f"token grid: {card.recipe.grid} -> {recipe.grid}, and its encoder has blocks")
    if card.recipe.teacher.is_random and card.recipe.run.seed != recipe.run.seed:
        lines.append(f"run.seed, of random weights: {card.recipe.run.seed} -> {recipe.run.seed}")
    if card.recipe.teacher.is_random and card.recipe.tokenised != name:
        lines.append(f"name, which random weights depend on: {card.recipe.tokenised} -> {name}")
    if lines and card.recipe.sees_pixels:
        raise ConfigError(
            f"{setting} {target.codebook}: has an encoder of its own, and teachers.{name} is another network "
            f"({'; '.join(lines)}); state it as {Path(target.codebook) / CARD_NAME} does, with weights: {target.codebook}"
        )
    if lines:
        raise ConfigError(
            f"{setting} {target.codebook}: was made for another teacher ({'; '.join(lines)}); learn one for this teacher"
        )


def _identity(recipe: TrainingRecipe, teacher: TeacherSettings, target: TargetSettings) -> dict[str, Any]:
    """Return everything that decides which tokens are read of a teacher, but for its weights."""
    values = {key: value for key, value in dump(teacher).items() if key not in _FREE}
    values["weights"] = "random" if teacher.is_random else "a file"
    values["input_px"] = teacher.input_px or recipe.data.clip.size_px
    values["grid_of_slot"] = list(recipe.grid[1:])
    read = {key: getattr(target, key) for key in READ}
    read["blocks"] = sorted({block % teacher.depth if teacher.network is None else block for block in target.blocks})
    if len(read["blocks"]) == 1:
        read.pop("mode")
    return values | {"target": read}
