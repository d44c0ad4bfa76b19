"""A classifier at its start: the encoder of a pretrained file, whole, and a head of its own."""

from __future__ import annotations

import logging
from pathlib import Path

from mvd_ds.config import ConfigError, FinetuneRecipe
from mvd_ds.models.classifier import Classifier
from mvd_ds.models.formats import Checkpoint, read_checkpoint, table_lines
from mvd_ds.models.formats.describe import differences
from mvd_ds.models.formats.reading import TensorRow, shorten
from mvd_ds.models.initialisation import build_without_weights, initialise
from mvd_ds.models.weights import fill_encoder, load_strictly

logger = logging.getLogger(__name__)
HEAD_PARTS = ("pooling.", "norm.", "head.")


def init_classifier_from_checkpoint(recipe: FinetuneRecipe, classes: int) -> Classifier:
    """Return the classifier of a recipe: initial weights of its seed, then the encoder of ``weights``; fp32, CPU.

    Raises:
        ConfigError: if ``weights`` is missing, not whole or another architecture, or its head is kept and has another size.
    """
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
    _tell(model, checkpoint, recipe.keep_head, origin)
    return model


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


def _tell(model: Classifier, checkpoint: Checkpoint, kept_head: bool, origin: str) -> None:
    """Log which tensors were loaded, which start fresh, and which of the file are not used."""
    loaded = [name for name in model.state_dict() if kept_head or not name.startswith(HEAD_PARTS)]
    fresh = [name for name in model.state_dict() if name not in loaded]
    unused = [name for name in checkpoint.state if name not in loaded]
    logger.info("%s: %s ('%s')", origin, checkpoint.layout.title, checkpoint.layout.name)
    logger.info("  loaded     %4d tensors: %s", len(loaded), "encoder, whole" + (" and head" if kept_head else ""))
    logger.info("  fresh      %4d tensors: %s", len(fresh), ", ".join(fresh) or "none")
    logger.info("  not used   %4d tensors of the file: %s", len(unused), shorten(unused) if unused else "none")
    for note in checkpoint.notes:
        logger.info("  %s", note)
    rows = [
        row if row.ours in loaded else TensorRow(row.theirs, row.shape, None, row.reason or "not used") for row in checkpoint.rows
    ]
    for line in table_lines(rows):
        logger.debug("%s", line)
