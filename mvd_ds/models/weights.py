"""Model folders: ``model.safetensors`` and ``config.json``, written whole or not at all, read strictly."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mvd_ds.config import ConfigError, EncoderSettings, Grid, TrainingRecipe, dump
from mvd_ds.files import folder_written_aside, one_line, write_json, written_aside
from mvd_ds.models.blueprint import Blueprint
from mvd_ds.models.formats.containers import CONFIG_NAME, WEIGHTS_NAME, seems_to_be
from mvd_ds.models.formats.describe import differences
from mvd_ds.models.formats.detect import read_checkpoint
from mvd_ds.models.formats.foreign import parse_object, read_object
from mvd_ds.models.formats.learned_positions import fit_learned_positions
from mvd_ds.models.formats.own import FORMAT, VERSION, recipe_of
from mvd_ds.models.formats.reading import Checkpoint, table_lines
from mvd_ds.models.formats.strict import copy_strictly, load_strictly, require_fit
from mvd_ds.models.text.own_files import text_files, with_own_text
from mvd_ds.models.vit import VisionTransformer

logger = logging.getLogger(__name__)

#: The moving average of the weights, beside them in a model folder.
AVERAGE_NAME = "ema.safetensors"
#: The statistics of targets, beside the weights: they bring predictions back to a teacher's own scale.
TARGET_STATISTICS_NAME = "target_statistics.safetensors"


def save_model(
    folder: str | Path,
    state_dict: Mapping[str, Tensor],
    recipe: TrainingRecipe,
    extra: dict[str, Any],
    average: Mapping[str, Tensor] | None = None,
    statistics: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model folder aside, then put it in place of what was there.

    Args:
        folder: the model folder.
        state_dict: state dict of a ``MaskedPredictor``.
        recipe: the resolved tree that it was trained by.
        extra: JSON values kept beside the recipe, the step for example.
        average: the moving average of the same weights, for ``ema.safetensors`` beside them; that file is a model too.
        statistics: state of the statistics of its targets by dotted name, for ``target_statistics.safetensors``.

    Raises:
        ConfigError: if the folder cannot be written; nothing half-written is left.
    """
    config = {"format": FORMAT, "version": VERSION, "recipe": dump(recipe), **extra}
    # The description travels inside the file too, so that the file alone can be checked.
    more = {AVERAGE_NAME: average, TARGET_STATISTICS_NAME: statistics}
    beside = {name: tensors for name, tensors in more.items() if tensors}
    write_folder(Path(folder), state_dict, config, {"config": json.dumps(config)}, beside, copied=text_files(recipe.language))


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: dict[str, Any],
    header: dict[str, str],
    more: Mapping[str, Mapping[str, Tensor]] | None = None,
    described: Mapping[str, Mapping[str, Any]] | None = None,
    copied: Mapping[str, bytes] | None = None,
) -> None:
    """Write ``model.safetensors`` and ``config.json`` aside, then put them in place of what was there.

    Args:
        folder: the folder.
        tensors: by name.
        config: content of ``config.json``.
        header: of the safetensors file.
        more: further files of tensors, by name.
        described: further JSON files, by name.
        copied: further files as they are, by their paths inside of the folder.

    Raises:
        ConfigError: if the folder cannot be written; nothing half-written is left.
    """
    files = {WEIGHTS_NAME: tensors, **(more or {})}
    try:
        with folder_written_aside(folder) as aside:
            for name, content in files.items():
                # The library gives its files mode 0600; the name that comes last has the one that the umask says.
                with written_aside(aside / name, sync=False) as file:
                    save_file({key: tensor.detach().to("cpu").contiguous() for key, tensor in content.items()}, file, header)
            for name, values in {CONFIG_NAME: config, **(described or {})}.items():
                write_json(aside / name, values, sync=False)
            for name, unchanged in (copied or {}).items():
                (aside / name).parent.mkdir(exist_ok=True)
                (aside / name).write_bytes(unchanged)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{folder}: the model cannot be written: {error}") from None


def plan_encoder(settings: EncoderSettings, grid: Grid, weights: str | Path, origin: str) -> Blueprint[VisionTransformer]:
    """Return the encoder of a file or folder in any known format: read and found to fit; copied when built.

    Args:
        settings: the architecture that the recipe states for it.
        grid: (t, h, w) of its tokens.
        weights: folder or file.
        origin: names the setting in messages.

    Raises:
        ConfigError: if weights are missing or misfit, or stem from another architecture; every disagreement is named.
    """
    try:
        checkpoint = read_checkpoint(weights)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    wrong = differences(checkpoint, settings)
    if wrong:
        raise ConfigError(f"{origin} {weights}: another architecture: {'; '.join(wrong)}")
    where = f"{origin} {weights}"
    state, has_norm = encoder_state(checkpoint, grid, where)

    def construct() -> VisionTransformer:
        encoder = VisionTransformer(settings, grid)
        return encoder if has_norm else without_norm(encoder)

    def fill(name: str, module: nn.Module) -> None:
        own = {key: state[f"{name}.{key}"] for key, _ in module.named_parameters(recurse=False)}
        copy_strictly(module, own, where, lambda key: _name_in_file(checkpoint, f"encoder.{name}.{key}"))

    plan = Blueprint(construct, fill)
    require_fit(plan.structure, state, where, lambda name: _name_in_file(checkpoint, f"encoder.{name}"))
    log_checkpoint(checkpoint, where, grid)
    return plan


def fill_encoder(encoder: VisionTransformer, checkpoint: Checkpoint, origin: str) -> None:
    """Fill an encoder from a file that holds one, with or without more."""
    state, has_norm = encoder_state(checkpoint, encoder.grid, origin)
    if not has_norm:
        without_norm(encoder)
    load_strictly(encoder, state, origin, lambda name: _name_in_file(checkpoint, f"encoder.{name}"))


def encoder_state(checkpoint: Checkpoint, grid: Grid, origin: str) -> tuple[dict[str, Tensor], bool]:
    """Return the weights of the encoder in a file, learned positions resized to ``grid``; and whether it has a final norm."""
    fit_learned_positions(checkpoint, "encoder.", grid, origin)
    state = {name.removeprefix("encoder."): value for name, value in checkpoint.state.items() if name.startswith("encoder.")}
    return state, any(name.startswith("norm.") for name in state) or not _has_no_final_norm(checkpoint)


def without_norm(encoder: VisionTransformer) -> VisionTransformer:
    """Take the final norm off an encoder whose file has none; teachers that would read behind it are refused."""
    encoder.norm = nn.Identity()
    return encoder


def fill_model(model: nn.Module, checkpoint: Checkpoint, grid: Grid, origin: str) -> None:
    """Fill a model with an encoder from a file that holds exactly it; faults are named as in the file."""
    for name in [name for name in checkpoint.state if name.endswith("position.table")]:
        fit_learned_positions(checkpoint, name.removesuffix("position.table"), grid, origin)
    load_strictly(model, checkpoint.state, origin, lambda name: _name_in_file(checkpoint, name))


def _has_no_final_norm(checkpoint: Checkpoint) -> bool:
    stated = dict(checkpoint.layout.settings) | checkpoint.stated.get("encoder", {})
    return stated.get("final_norm") is False


def _name_in_file(checkpoint: Checkpoint, name: str) -> str:
    """Return the name that a tensor of ours has in the file it comes from."""
    present = [row.theirs for row in checkpoint.rows if row.ours == name]
    return " + ".join(present or [theirs for theirs, _ in checkpoint.layout.sources(name)] or [name])


def log_checkpoint(checkpoint: Checkpoint, origin: str, grid: Grid) -> None:
    """Log which format was read, what changed on the way, and, in detail, what went where."""
    logger.info("%s: %s ('%s'), %d tensors", origin, checkpoint.layout.title, checkpoint.layout.name, len(checkpoint.rows))
    notes, stored = list(checkpoint.notes), checkpoint.grids.get("encoder")
    if stored is not None and math.prod(stored) != math.prod(grid):
        notes.append(f"positions computed for grid {grid}; the file was made on {stored}")
    for note in notes:
        logger.info("%s: %s", origin, note)
    for line in table_lines(checkpoint.rows):
        logger.debug("%s", line)


def read_recipe(weights: str | Path) -> TrainingRecipe:
    """Return the recipe in the ``config.json`` of a model folder, or in the header of a weights file.

    Raises:
        ConfigError: if there is none, or it is not a training recipe of this format.
    """
    path = Path(weights)
    if path.is_file():
        origin, config = str(path), _read_header(path)
    else:
        origin = str(path / CONFIG_NAME)
        try:
            config = read_object(path / CONFIG_NAME)
        except ConfigError as error:
            raise ConfigError(f"{error}; give a folder written by `pretrain`") from None
    recipe = recipe_of(config, origin)
    if recipe is None:
        made_from = one_line(config.get("converted_from", "a file"), 100)
        raise ConfigError(f"{origin}: was made from {made_from} and has no recipe; give a folder of a run")
    return with_own_text(recipe, path.parent if path.is_file() else path)


def model_file(weights: str | Path, origin: str) -> Path:
    """Return the file with the weights of a model folder, or the file itself.

    Raises:
        ConfigError: if there is none.
    """
    path = Path(weights)
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{origin} {weights}: there is no file {file}; give a folder written by `pretrain`")
    return file


def _read_header(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as stored:
            text = (stored.metadata() or {}).get("config")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file}: is not a readable safetensors file: {seems_to_be(file) or one_line(error, 200)}") from None
    if text is None:
        raise ConfigError(f"{file}: its header does not describe the model; give a folder written by `pretrain`")
    return parse_object(text, f"{file}: the description in its header")
