"""Adaptors of a run: the heads of its teachers, with the inverse of what standardised their features."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mvd_ds.config import AdaptorSettings, ConfigError, PreprocessingSettings, TrainingRecipe
from mvd_ds.files import did_you_mean
from mvd_ds.models.adaptors.adapted import AdaptedEncoder
from mvd_ds.models.classifiers.classifier import PixelInput
from mvd_ds.models.classifiers.pooling import mean_tokens
from mvd_ds.objectives.targets import Target, build_targets
from mvd_ds.runs.student import load_predictor, load_target_statistics
from mvd_ds.training.console import say


class PixelAdaptors(PixelInput):
    """An encoder with adaptors that normalises uint8 clips itself, as graphs show it.

    Args:
        adapted: takes normalised clips.
        preprocessing: mean and deviation of its clips.
    """

    def __init__(self, adapted: AdaptedEncoder, preprocessing: PreprocessingSettings) -> None:
        super().__init__(preprocessing)
        self.adapted = adapted

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Return features (B, D) of uint8 clips (B, C, T, H, W), and the answer of each adaptor."""
        encoder = self.adapted.encoder
        encoded, answers = self.adapted(self.normalised(clip, next(encoder.parameters()).dtype))
        return mean_tokens(encoded, encoder.settings.cls_token), *answers.values()


def adaptors_of(source: Path, names: list[str]) -> AdaptedEncoder:
    """Return the encoder of a run with the heads of its teachers, in ``eval()``, fp32, on the CPU.

    Args:
        source: model folder of a run of ``distill``.
        names: outputs of the student that are kept; none: all that answer in the space of a teacher.

    Raises:
        ConfigError: if the folder is none of such a run, or an output is not there or answers in no teacher's space.
    """
    student, recipe = load_predictor(source)
    targets = build_targets(recipe)
    heads = {name: target for name, target in targets.items() if recipe.outputs[name].teacher and target.is_pointwise}
    for name in names:
        if name not in heads:
            reason = f"the head of {name} answers in no teacher's space" if name in targets else f"no output '{name}'"
            hint = did_you_mean(name, heads, f"adaptors are made of {', '.join(heads) or 'nothing here'}")
            raise ConfigError(f"--adaptors {name}: {reason}; {hint}")
    kept = {name: heads[name] for name in names or heads}
    if not kept:
        raise ConfigError(f"{source}: was trained for {', '.join(targets)}, none of which answers in a teacher's space")
    cards = {name: _card(recipe, name, target) for name, target in kept.items()}
    adapted = AdaptedEncoder(student.encoder.settings, student.encoder.grid, cards)
    adapted.encoder = student.encoder
    adapted.decoders.load_state_dict(
        {key: value for key, value in student.decoders.state_dict().items() if key.partition(".")[0] in kept}
    )
    load_target_statistics(source, kept)
    for name, target in kept.items():
        undo = target.undo()
        if undo is not None:
            adapted.undo_by(name, *undo)
    return adapted.eval()


def tell_adaptors(adapted: AdaptedEncoder, folder: Path) -> None:
    """Say what each adaptor answers, and what to know of it."""
    for name, card in adapted.adaptors.items():
        what = f"one vector of {card.width}" if card.is_summary else f"{card.width} numbers for each token"
        notes = [f"learnt at {card.tokens} tokens"] if card.tokens in ("masked", "all") else []
        if not card.is_undone:
            notes.append(f"standardised per {card.standardise}, which cannot be undone: directions are right, scales are not")
        say(f"{folder}: adaptor {name}: {what}, in the space of {card.space}{''.join(f'; {note}' for note in notes)}")


def _card(recipe: TrainingRecipe, name: str, target: Target) -> AdaptorSettings:
    output = recipe.outputs[name]
    assert output.teacher is not None and output.target is not None
    teacher, blocks = recipe.teachers[output.teacher], ", ".join(map(str, output.target.blocks))
    norm = ", through the final norm" if output.target.norm == "final" else ""
    return AdaptorSettings(
        width=target.head.width,
        tokens=target.head.tokens,
        decoder=target.head.decoder,
        standardise=target.standardise,
        space=f"{teacher.network or output.teacher} ({teacher.weights}), blocks {blocks}{norm}",
    )
