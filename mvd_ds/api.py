"""The Python interface: build, load, call, compare, train and export models; ``mvd_ds/README.md`` shows it in use.

Everything takes plain dicts where a recipe has settings, needs no data and no cluster, and works in fp32 on the CPU until it is
moved. Clips are (B, C, T, H, W), normalised by ImageNet's mean and deviation; masks bool (B, N) or (B, K, N), **True = masked**.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, overload

from pydantic import ValidationError
from torch import Tensor, nn

from mvd_ds.clips import draw_masks, normalise, read_clip
from mvd_ds.config import (
    ConfigError,
    DecoderSettings,
    EncoderSettings,
    Grid,
    HeadShape,
    LossMixture,
    PoolingSettings,
    Settings,
    TeacherSettings,
)
from mvd_ds.evaluation.feature_files import read_features
from mvd_ds.files import did_you_mean
from mvd_ds.models.building import Model, load_into, network_of, open_model
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.embed import split_mask
from mvd_ds.models.formats import LAYOUTS, Checkpoint, read_checkpoint, table_lines
from mvd_ds.models.formats.describe import require_decoder
from mvd_ds.models.formats.writing import to_layout
from mvd_ds.models.initialisation import build_without_weights, initialise
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.saving import save_as
from mvd_ds.models.teachers import Teacher, plan_lone_teacher
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.mteb_encoder import mteb_model as mteb_model
from mvd_ds.objectives.losses import LOSSES, mixed_loss
from mvd_ds.objectives.relations import relation_loss
from mvd_ds.objectives.targets import gather_masked, standardised
from mvd_ds.video_classifier import VideoClassifier, VideoEncoder, open_for_videos

__all__ = [
    "LAYOUTS",
    "VideoClassifier",
    "VideoEncoder",
    "build_classifier",
    "build_encoder",
    "build_student",
    "build_teacher",
    "distillation_loss",
    "draw_masks",
    "export",
    "export_gradients",
    "load",
    "normalise",
    "open_model",
    "read_checkpoint",
    "read_clip",
    "read_features",
    "relation_loss",
    "save",
    "split_mask",
    "table_lines",
    "train",
]


def build_student(
    encoder: Mapping[str, Any] | EncoderSettings,
    decoder: Mapping[str, Any] | DecoderSettings | None = None,
    targets: Mapping[str, int] | None = None,
    frames: int = 16,
    size_px: int = 224,
    seed: int = 0,
) -> MaskedPredictor:
    """Build a student with its initial weights: ``student(clip, mask)`` is {target: (B * K, M, width)}.

    Args:
        encoder: settings as under ``model`` in a recipe: ``{"size": "base"}``, or embed_dim, depth, num_heads, ...
        decoder: settings as under ``decoder``; None: MVD's for S and B, width and heads of the encoder, depth 2.
        targets: width of each target by name; None: ``{"image": D, "video": D}``, the names that MVD's files need.
        frames: T.
        size_px: H and W.
        seed: seed of the weights.
    """
    settings = _settings(EncoderSettings, encoder)
    outputs = dict(targets or {"image": settings.embed_dim, "video": settings.embed_dim})
    grid, shape = _grid(settings, frames, size_px), _settings(DecoderSettings, decoder or {})
    require_decoder(shape, settings, "build_student")
    heads = {name: HeadShape(width, shape) for name, width in outputs.items()}
    model = build_without_weights(lambda: MaskedPredictor(settings, grid, heads))
    return initialise(model, seed)


def build_encoder(
    encoder: Mapping[str, Any] | EncoderSettings, frames: int = 16, size_px: int = 224, seed: int = 0
) -> VisionTransformer:
    """Build an encoder with its initial weights: ``encoder(clip[, mask])`` is (B * K, [1 +] V, D) after the final norm."""
    settings = _settings(EncoderSettings, encoder)
    grid = _grid(settings, 1 if settings.kind == "image" else frames, size_px)
    return initialise(build_without_weights(lambda: VisionTransformer(settings, grid)), seed)


def build_teacher(
    settings: Mapping[str, Any] | TeacherSettings,
    frames: int = 16,
    size_px: int = 224,
    tubelet_frames: int = 2,
    grid: Grid | None = None,
    name: str = "teacher",
    seed: int = 0,
) -> Teacher:
    """Build a frozen teacher: ``teacher(clip)`` is (B, N, D), before the final norm unless ``target.norm`` says otherwise.

    Args:
        settings: settings as under ``teachers.NAME`` in a recipe; without ``weights`` they are random, for ``load`` to fill.
        frames: T of the student's clip.
        size_px: H and W of the student's clip; the teacher's own are ``input_px``.
        tubelet_frames: frames of one of the student's tubelets; an image teacher sees one of each.
        grid: (t, h, w) of the targets; None: the teacher's own.
        name: name in messages, and key of random weights.
        seed: seed of random weights.
    """
    if isinstance(settings, Mapping):
        settings = {"weights": "random", **settings}
    chosen = _settings(TeacherSettings, settings)
    side = chosen.input_px or size_px
    try:
        own = chosen.grid(frames, side) if chosen.kind == "video" else (frames // tubelet_frames, *chosen.frame_grid(side))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return plan_lone_teacher(name, chosen, frames, size_px, grid or own, tubelet_frames, seed).build()


def build_classifier(
    encoder: Mapping[str, Any] | EncoderSettings,
    classes: int,
    frames: int = 16,
    size_px: int = 224,
    norm_eps: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    pooling: str | Mapping[str, Any] | PoolingSettings = "mean",
) -> Classifier:
    """Build a video classifier as VideoMAE and MVD fine-tune it: ``classifier(clip)`` is (B, classes) logits.

    ``pooling`` is mean, cls, max, gem or ggem, or its settings: ``{"kind": "ggem", "groups": 4}``.
    """
    settings = _settings(EncoderSettings, encoder)
    pool = _settings(PoolingSettings, {"kind": pooling} if isinstance(pooling, str) else pooling)
    grid = _grid(settings, frames, size_px)
    return initialise(build_without_weights(lambda: Classifier(settings, grid, classes, norm_eps, dropout, pool)), seed)


@overload
def load(model: str | Path, *, format: str | None = None) -> VideoClassifier | VideoEncoder:
    """Open a classifier or an encoder, ready for video files."""


@overload
def load(model: Model | Teacher, source: str | Path | Mapping[str, Any], format: str | None = None) -> Checkpoint:
    """Fill a model that exists with weights."""


def load(
    model: Model | Teacher | str | Path, source: str | Path | Mapping[str, Any] | None = None, format: str | None = None
) -> VideoClassifier | VideoEncoder | Checkpoint:
    """Open a model, ready for video files (``load(FOLDER)``), or fill a model with weights (``load(MODEL, SOURCE)``).

    Args:
        model: folder of a training or of ``export``; or a model to fill.
        source: file, folder or state dict in any known layout, for a model to fill. An encoder or a teacher takes the encoder of
            a file that holds more; anything else has to match whole.
        format: the layout; None: it is detected.

    Returns:
        ``VideoClassifier`` where there is a class head, else ``VideoEncoder``; or the checkpoint, with the table of its tensors.

    Raises:
        ConfigError: if the folder holds no model, or the file is another network or not whole; every difference is named.
    """
    if isinstance(model, str | Path):
        if source is not None:
            raise ConfigError(f"load('{model}', ...): a folder alone opens its model; a model to fill comes first")
        return open_for_videos(model, format)
    if source is None:
        raise ConfigError("load(MODEL): say from which file, folder or state dict")
    return load_into(model, source, format)


def distillation_loss(
    predictions: Mapping[str, Tensor],
    features: Mapping[str, Tensor],
    mask: Tensor,
    loss: LossMixture = "smooth_l1",
    normalise: bool = False,
    standardise: str | Callable[[Tensor], Tensor] = "none",
) -> dict[str, Tensor]:
    """Return the loss of every target: the mean over all masked tokens and channels, in fp32, with a graph behind it.

    Args:
        predictions: outputs of a student, (B * K, M, D) by name.
        features: outputs of the teachers, (B, N, D) by the same names.
        mask: bool (B, N) or (B, K, N), True = masked: the one that the student had.
        loss: smooth_l1, l1, l2 or cosine, or a mixture by weight, as ``{"cosine": 0.9, "smooth_l1": 0.1}``.
        normalise, standardise: token (both, ``--norm_feature`` of the reference), clip, none, or a function of features.
    """
    if predictions.keys() != features.keys():
        raise ConfigError(f"predictions {sorted(predictions)} and features {sorted(features)} have different names")
    for part in [loss] if isinstance(loss, str) else loss:
        if part not in LOSSES:
            raise ConfigError(f"loss '{part}' is not known; {did_you_mean(part, LOSSES, 'losses are ' + ', '.join(LOSSES))}")
    losses = {}
    for name, prediction in predictions.items():
        _, masked = split_mask(mask, *features[name].shape[:2])
        if not masked.numel():
            raise ConfigError("the mask hides no token, so there is nothing to predict and no loss")
        target = gather_masked(standardised(features[name], "token" if normalise else standardise), masked)
        losses[name] = mixed_loss(loss, prediction, target)
    return losses


def train(recipe: str | Path, *overrides: str) -> Path:
    """Train a recipe of pretrain, distill or finetune in this process, and return the run's folder.

    It goes on from the newest checkpoint in the folder, if there is one. Under a launcher every process calls it alike.

    Args:
        recipe: name of a shipped recipe, or a YAML file.
        overrides: settings that replace the recipe's, ``"batch.micro=4"``.

    Raises:
        ConfigError: for whatever the user can mend, and if the run was stopped before its end.
    """
    from mvd_ds.runs.any_training import train_by_name  # imports the engine

    return train_by_name(str(recipe), overrides)


def export(model: Model, format: str) -> dict[str, Tensor]:
    """Return the weights of a model under the names and shapes of a format, position tables included.

    Raises:
        ConfigError: if the format is not known or cannot hold this model.
    """
    tensors, _ = to_layout(_layout(format), _named(model, model.state_dict()), network_of(model), "this model")
    return tensors


def export_gradients(model: Model, format: str) -> dict[str, Tensor]:
    """Return the gradients of a model under the names and shapes of a format; parameters without one are left out."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return _layout(format).rename(_named(model, gradients))[0]


def save(model: Model, path: str | Path, format: str = "mvd_ds") -> list[str]:
    """Write a model in a format, and return sentences about what others will compute otherwise."""
    return save_as(_named(model, model.state_dict()), network_of(model), Path(path), format, "this model")


def _named(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names that they have in a whole model."""
    prefix = "encoder." if isinstance(model, VisionTransformer) else ""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _layout(name: str) -> Any:
    if name not in LAYOUTS:
        raise ConfigError(f"format '{name}' is not known; {did_you_mean(name, LAYOUTS, 'formats are ' + ', '.join(LAYOUTS))}")
    return LAYOUTS[name]


def _settings(kind: type[Any], values: Mapping[str, Any] | Settings) -> Any:
    if isinstance(values, kind):
        return values
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(_fault(kind, dict(fault)) for fault in error.errors())) from None


def _fault(kind: type[Any], fault: Mapping[str, Any]) -> str:
    """Return the line of one fault in settings, with the nearest name for a key that is not known."""
    key, message = ".".join(map(str, fault["loc"])), str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
        known = list(kind.model_fields)
        message = f"is not known; {did_you_mean(key, known, 'keys are ' + ', '.join(known))}"
    return f"{key}: {message}".removeprefix(": ")


def _grid(settings: EncoderSettings, frames: int, size_px: int) -> Grid:
    try:
        return settings.grid(frames, size_px)
    except ValueError as error:
        raise ConfigError(str(error)) from None
