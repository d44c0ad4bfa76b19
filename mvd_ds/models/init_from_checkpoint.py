"""Networks at their start from a pretrained file: its encoder, whole, and the rest of their own."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from mvd_ds.config import ConfigError, FinetuneRecipe, Grid, InitSettings
from mvd_ds.models.classifiers.adaptation import freeze
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.formats import Checkpoint, read_checkpoint, table_lines
from mvd_ds.models.formats.describe import differences
from mvd_ds.models.formats.learned_positions import fit_learned_positions
from mvd_ds.models.formats.reading import TensorRow, shorten
from mvd_ds.models.formats.strict import require_fit
from mvd_ds.models.initialisation import build_without_weights, initialise, initialise_module
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.weights import encoder_state, fill_encoder, load_strictly

logger = logging.getLogger(__name__)
HEAD_PARTS = ("pooling.", "norm.", "head.")


def init_classifier_from_checkpoint(recipe: FinetuneRecipe, classes: int) -> Classifier:
    """Return the classifier of a recipe: initial weights of its seed, then the encoder of ``weights``; fp32, CPU.

    What ``adaptation`` freezes requires no gradient, and products of low rank start from the seed.

    Raises:
        ConfigError: if ``weights`` is missing, not whole or another architecture, or its head is kept and has another size.
    """
    model = _filled_classifier(recipe, classes)
    for name in freeze(model, recipe.adaptation):
        initialise_module(name, model.get_submodule(name), recipe.run.seed)
    return model


def _filled_classifier(recipe: FinetuneRecipe, classes: int) -> Classifier:
    """Return the classifier of a recipe with the weights of its file, nothing of it frozen."""
    model = build_without_weights(
        lambda: Classifier(recipe.model, recipe.grid, classes, dropout=recipe.dropout, pooling=recipe.pooling)
    )
    initialise(model, recipe.run.seed)
    if recipe.weights is None:
        logger.info("from scratch: initial weights of seed %d", recipe.run.seed)
        return model
    origin = f"weights {recipe.weights}"
    try:
        checkpoint = read_checkpoint(Path(recipe.weights))
    except ConfigError as error:
        raise ConfigError(f"weights: {error}") from None
    wrong = differences(checkpoint, recipe.model.model_copy(update={"final_norm": False}))
    if wrong:
        raise ConfigError(f"{origin}: another architecture: {'; '.join(wrong)}; set model to that of the file")
    if recipe.keep_head:
        _fill_head(model, checkpoint, classes, origin)
    _fill_encoder(model, checkpoint, origin)
    loaded = [name for name in model.state_dict() if recipe.keep_head or not name.startswith(HEAD_PARTS)]
    parts = "encoder, whole" + (" and head" if recipe.keep_head else "")
    _tell(list(model.state_dict()), loaded, checkpoint, parts, origin)
    return model


def starting_tensors(init: InitSettings, structure: MaskedPredictor, grid: Grid) -> dict[str, Tensor]:
    """Return the tensors that a student starts from, by its own names; all others start from the seed.

    Args:
        init: file or folder, and which parts of it.
        structure: the student, which may be without data.
        grid: (t, h, w) of its tokens; learned positions are resized to it.

    Raises:
        ConfigError: if the file is missing, not whole or another architecture, or holds no decoder that is asked for.
    """
    origin = f"init.weights {init.weights}"
    try:
        checkpoint = read_checkpoint(Path(init.weights))
    except ConfigError as error:
        raise ConfigError(f"init.weights: {error}") from None
    settings = structure.encoder.settings
    wrong = differences(checkpoint, settings)
    if wrong:
        raise ConfigError(f"{origin}: another architecture: {'; '.join(wrong)}; set model to that of the file")
    state, has_norm = encoder_state(checkpoint, grid, origin)
    fresh = {} if has_norm else {name: value for name, value in _norm_of(structure).items() if name not in state}
    require_fit(structure.encoder, state | fresh, origin)
    found = {f"encoder.{name}": value for name, value in state.items()}
    parts = "encoder, whole" if has_norm else "encoder but for the norm after its last block, which the file has not"
    if init.decoders:
        names = [name for name in checkpoint.decoder_names if name in structure.decoders]
        if not names:
            wanted, held = ", ".join(structure.decoders), ", ".join(checkpoint.decoder_names) or "none"
            raise ConfigError(f"{origin}: init.decoders: the student's decoders are {wanted}, the file's {held}; set it to false")
        for name in names:
            prefix = f"decoders.{name}."
            fit_learned_positions(checkpoint, prefix, grid, origin)
            inside = {key: value for key, value in checkpoint.state.items() if key.startswith(prefix)}
            require_fit(structure.decoders[name], {key.removeprefix(prefix): value for key, value in inside.items()}, origin)
            found |= inside
        parts += f"; decoders {', '.join(names)}"
    _tell(list(structure.state_dict()), list(found), checkpoint, parts, origin)
    return found


def _norm_of(structure: MaskedPredictor) -> dict[str, Tensor]:
    """Return the initial weights of the norm after the last block."""
    norm = structure.encoder.norm.state_dict()
    return {f"norm.{name}": torch.full(value.shape, float(name == "weight")) for name, value in norm.items()}


def _fill_encoder(model: Classifier, checkpoint: Checkpoint, origin: str) -> None:
    """Fill the encoder; its final norm is left out, because pooled tokens have a norm of their own (MVD, Q26)."""
    state = {name: value for name, value in checkpoint.state.items() if not name.startswith("encoder.norm.")}
    inside = Checkpoint(checkpoint.layout, checkpoint.origin, state, checkpoint.rows, checkpoint.notes, grids=checkpoint.grids)
    fill_encoder(model.encoder, inside, origin)


def _fill_head(model: Classifier, checkpoint: Checkpoint, classes: int, origin: str) -> None:
    head = checkpoint.state.get("head.weight")
    if head is None:
        raise ConfigError(f"{origin}: keep_head: there is no class head in it; set keep_head to false")
    if len(head) != classes:
        raise ConfigError(
            f"{origin}: keep_head: its head has {len(head)} classes, the manifest has {classes}; set keep_head to false for a "
            "fresh head"
        )
    for part in HEAD_PARTS:
        inside = {n.removeprefix(part): value for n, value in checkpoint.state.items() if n.startswith(part)}
        load_strictly(model.get_submodule(part.rstrip(".")), inside, f"{origin}: {part.rstrip('.')}")


def _tell(names: list[str], loaded: list[str], checkpoint: Checkpoint, parts: str, origin: str) -> None:
    """Log which tensors of a network's ``names`` were loaded, which start fresh, and which of the file are not used."""
    known = set(loaded)
    fresh = [name for name in names if name not in known]
    unused = [name for name in checkpoint.state if name not in known]
    logger.info("%s: %s ('%s')", origin, checkpoint.layout.title, checkpoint.layout.name)
    logger.info("  loaded     %4d tensors: %s", len(loaded), parts)
    logger.info("  fresh      %4d tensors: %s", len(fresh), shorten(fresh) if fresh else "none")
    logger.info("  not used   %4d tensors of the file: %s", len(unused), shorten(unused) if unused else "none")
    for note in checkpoint.notes:
        logger.info("  %s", note)
    rows = [
        row if row.ours in known else TensorRow(row.theirs, row.shape, None, row.reason or "not used") for row in checkpoint.rows
    ]
    for line in table_lines(rows):
        logger.debug("%s", line)
