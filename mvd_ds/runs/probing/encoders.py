"""The frozen networks of a probe, of any family, behind one interface: tokens of some blocks, and their pooled vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mvd_ds.config import ConfigError, EncoderSettings, Grid, ProbedModel, ProbeRecipe, TeacherSettings, TrainingRecipe
from mvd_ds.config.probing import block_name
from mvd_ds.models.building import is_run_model, open_encoder
from mvd_ds.models.classifiers.deep_attentive import HEAD_CHANNELS
from mvd_ds.models.classifiers.heads import KeysValues
from mvd_ds.models.classifiers.pooling import Pooling
from mvd_ds.models.classifiers.tokens import ClipTokens, TokenShape
from mvd_ds.models.embed import sincos_1d
from mvd_ds.models.networks import FrozenNetwork, family_of
from mvd_ds.models.networks.hf_network import HfNetwork
from mvd_ds.models.networks.ours import OwnNetwork
from mvd_ds.models.networks.timm_sizes import timm_sizes
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import read_recipe
from mvd_ds.runs.student import build_predictor, load_predictor
from mvd_ds.training.step import normalise, to_unit


class Opened(NamedTuple):
    """A network with its weights, and what is known of it."""

    network: FrozenNetwork
    settings: TeacherSettings
    blocks: tuple[int, ...]
    """Blocks that are probed, from 0, ascending."""
    encoder: VisionTransformer | None
    """The network itself where it is one of ours."""


class ProbedEncoder:
    """A frozen network as heads and poolings see it.

    Args:
        opened: the network.
        model: how it is shown a clip.
        recipe: the probe run.
        device: where it computes.

    Raises:
        ConfigError: if the pooling does not fit its tokens.
    """

    def __init__(self, opened: Opened, model: ProbedModel, recipe: ProbeRecipe, device: torch.device) -> None:
        self.network, self.settings, self.blocks, self.encoder = opened
        self.network.module.to(device).eval().requires_grad_(False)
        self.model, self.device, self.is_bf16 = model, device, recipe.precision == "bf16"
        self.stride = model.every_frames if self.settings.kind == "image" else 1
        self.has_cls = bool(self.network.reads.summaries)
        own_heads = self.encoder is not None or self.settings.hf_name is not None
        self.heads = self.settings.num_heads if own_heads else _head_count(self.network.embed_dim)
        pooling = Pooling(recipe.pooling, self.network.embed_dim, self.heads, self.has_cls)
        self.pooling = pooling.to(device).requires_grad_(False)

    def names(self, name: str, recipe: ProbeRecipe) -> list[str]:
        """Return the names of its blocks in the results."""
        return [block_name(name, None if recipe.blocks == "last" else block) for block in self.blocks]

    def shape(self, frames: int, segments: int) -> TokenShape:
        """Return the shape of ``clip_tokens`` of clips of ``frames`` frames."""
        inputs = segments * (len(range(0, frames, self.stride)) if self.settings.kind == "image" else 1)
        count = 1 if self.model.time == "mean" else inputs
        return TokenShape(self.network.embed_dim, self.heads, count * self.has_cls, self.encoder)

    @property
    def parameters(self) -> int:
        """Number of parameters that are used."""
        return sum(parameter.numel() for parameter in self.network.module.parameters())

    @torch.no_grad()
    def vectors(self, clips: Tensor) -> Tensor:
        """Map uint8 (B, segments, crops, C, T, H, W) to pooled fp32 (blocks, B, D), means over frames and views."""
        cls, patches = self._read(clips.flatten(0, 2))
        tokens = torch.cat((cls, patches), dim=3)
        pooled = self.pooling(tokens.flatten(0, 2)).unflatten(0, tokens.shape[:3]).mean(dim=2)
        return pooled.unflatten(1, (len(clips), -1)).mean(dim=2)

    @torch.no_grad()
    def clip_tokens(self, clips: Tensor, layers: bool = False) -> ClipTokens:
        """Map uint8 (B, segments, crops, C, T, H, W) to the tokens that trained heads see.

        Args:
            clips: the views of B videos.
            layers: whether keys and values are wanted, which only our own networks give.
        """
        if not layers:
            return ClipTokens(self._arranged(*self._read(clips.flatten(0, 2)), clips))
        assert self.encoder is not None
        with KeysValues(self.encoder) as kept:
            tokens = self._arranged(*self._read(clips.flatten(0, 2)), clips)
        found = kept.of_clips(clips.shape[:3].numel()).unflatten(0, clips.shape[:3])
        # (B, segments, crops, layers, N, ...) -> (B, crops, layers, segments * N, ...)
        return ClipTokens(tokens, found.permute(0, 2, 3, 1, *range(4, found.ndim)).flatten(3, 4))

    def grid(self, frames: int) -> Grid:
        """Return (t, h, w) of the patch tokens of clips of ``frames`` frames."""
        slots, rows, columns = self.network.grid
        return (len(range(0, frames, self.stride)) if self.settings.kind == "image" else slots), rows, columns

    @torch.no_grad()
    def grid_tokens(self, clips: Tensor) -> Tensor:
        """Map uint8 (B, 1, 1, C, T, H, W) to patch tokens at their places, fp32 (blocks, B, t, h, w, D)."""
        _, patches = self._read(clips.flatten(0, 2))
        return patches.flatten(2, 3).unflatten(2, self.grid(clips.shape[4])).float()

    def pixels(self, clips: Tensor) -> Tensor:
        """Return uint8 clips (B, C, T, H, W) as the network takes them: frames in steps, normalised, resized."""
        pixels = normalise(to_unit(clips[:, :, :: self.stride].to(self.device)), torch.float32)
        if self.model.input_px not in (None, pixels.shape[-1]):
            side = (self.model.input_px, self.model.input_px)
            frames = pixels.transpose(1, 2).flatten(0, 1)
            frames = F.interpolate(frames, side, mode="bilinear", antialias=True)
            pixels = frames.unflatten(0, (len(pixels), -1)).transpose(1, 2)
        return pixels

    def _read(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return class tokens (blocks, B, inputs, 0 or 1, D) and patch tokens (blocks, B, inputs, N, D) of clips."""
        pixels = self.pixels(clips)
        if self.settings.kind == "image":
            pixels = pixels.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            reading = self.network.read(pixels)
        patches = torch.stack([reading.tokens[block] for block in self.blocks]).unflatten(1, (len(clips), -1))
        if not self.has_cls:
            return patches[:, :, :, :0], patches
        cls = torch.stack([reading.summaries[block] for block in self.blocks])[:, :, None]
        return cls.unflatten(1, (len(clips), -1)), patches

    def _arranged(self, cls: Tensor, patches: Tensor, clips: Tensor) -> Tensor:
        """Return (B, blocks, crops, N, D): class tokens of all inputs, then patch tokens, segment by segment."""
        parts = []
        for part in (cls, patches):
            seen = part.unflatten(1, clips.shape[:3]).permute(1, 0, 3, 2, 4, 5, 6).flatten(3, 4)
            if self.model.time == "mean":
                seen = seen.mean(dim=3, keepdim=True)
            elif self.model.time == "positions":
                table = torch.from_numpy(sincos_1d(torch.arange(seen.shape[3]).numpy(), seen.shape[-1]))
                seen = seen + table.to(seen)[:, None]
            parts.append(seen.flatten(3, 4))
        joined = torch.cat(parts, dim=3)
        return joined.bfloat16() if self.is_bf16 else joined


def open_encoders(recipe: ProbeRecipe, device: torch.device) -> dict[str, ProbedEncoder]:
    """Return the frozen networks of a probe by name, on the device.

    Raises:
        ConfigError: if a network cannot be read, or does not fit the clips.
    """
    found = {}
    for name, model in recipe.models.items():
        opened = _open_ours(name, model, recipe) if model.network is None else _open_other(name, model, recipe)
        if model.time != "tokens" and opened.settings.kind == "video":
            raise ConfigError(f"models.{name}.time {model.time}: it sees whole clips; time is for networks of images")
        if model.every_frames > 1 and opened.settings.kind == "video":
            raise ConfigError(
                f"models.{name}.every_frames {model.every_frames}: it sees whole clips; set data.clip for all networks"
            )
        found[name] = ProbedEncoder(opened, model, recipe, device)
    return found


def _open_ours(name: str, model: ProbedModel, recipe: ProbeRecipe) -> Opened:
    """Return one of our own encoders: of a run, or of a file in any layout."""
    encoder = _own_encoder(name, model, recipe)
    fields = {key: getattr(encoder.settings, key) for key in EncoderSettings.model_fields if key != "size"}
    blocks = _blocks(name, recipe, len(encoder.blocks))
    values = fields | {"weights": model.weights, **_targets(blocks, encoder.settings.final_norm, encoder.settings.cls_token)}
    settings = TeacherSettings.model_validate(values)
    return Opened(OwnNetwork(encoder, settings), settings, blocks, encoder)


def _own_encoder(name: str, model: ProbedModel, recipe: ProbeRecipe) -> VisionTransformer:
    side = model.input_px or recipe.data.clip.size_px
    if not is_run_model(model.weights):
        if model.untrained:
            raise ConfigError(f"models.{name}.untrained: {model.weights} has no recipe, so its first weights are not known")
        return open_encoder(model.weights, recipe.data.clip.frames, side)
    trained = read_recipe(model.weights)
    _require_fit(name, model, trained, recipe, side)
    if model.untrained:  # by the seed alone, though the run itself may have started from weights
        return build_predictor(trained.model_copy(update={"init": None})).encoder
    return load_predictor(model.weights)[0].encoder


def _require_fit(name: str, model: ProbedModel, trained: TrainingRecipe, recipe: ProbeRecipe, side: int) -> None:
    ours, theirs = recipe.data.clip, trained.data.clip
    wrong = [] if side == theirs.size_px else [f"size_px {side}, trained with {theirs.size_px}"]
    if trained.model.kind == "video" and ours.frames != theirs.frames:
        wrong.append(f"frames {ours.frames}, trained with {theirs.frames}")
    if wrong:
        raise ConfigError(f"models.{name} {model.weights}: does not fit data.clip.{' and data.clip.'.join(wrong)}")


def _open_other(name: str, model: ProbedModel, recipe: ProbeRecipe) -> Opened:
    """Return a network of another family."""
    assert model.network is not None
    frames, side, origin = recipe.data.clip.frames, model.input_px or recipe.data.clip.size_px, f"models.{name}"
    values: dict[str, Any] = {"network": model.network, "weights": model.weights}
    count = 0
    if model.network.startswith("timm:"):
        sizes, count = timm_sizes(model.network.removeprefix("timm:"), side, origin)
        values |= sizes
    try:
        whole = TeacherSettings.model_validate(values)
        blocks = _blocks(name, recipe, count or family_of(whole).outline(whole, frames, side)[1])
        settings = TeacherSettings.model_validate(values | _targets(blocks, True, recipe.pooling.kind == "cls"))
    except ValueError as error:  # pydantic's, whose lines name its fields
        raise ConfigError(f"{origin}: {_reason(error)}") from None
    planned = family_of(settings).plan(settings, frames, side, recipe.run.seed, origin)
    if not planned.has_final_norm:
        settings = TeacherSettings.model_validate(values | _targets(blocks, False, recipe.pooling.kind == "cls"))
        planned = family_of(settings).plan(settings, frames, side, recipe.run.seed, origin)
    network = planned.adapt(planned.blueprint.build())
    if recipe.pooling.kind == "cls" and isinstance(network, HfNetwork) and not all(map(network.has_summary, blocks)):
        raise ConfigError(f"{origin}: pooling cls: {model.network} has no class token; choose mean, max, gem or ggem")
    return Opened(network, settings, blocks, None)


def _head_count(width: int) -> int:
    """Return the number of attention heads for tokens of a network that has none: one for every 64 channels, or wider ones."""
    return next(heads for heads in range(max(width // HEAD_CHANNELS, 1), 0, -1) if width % heads == 0)


def _reason(error: ValueError) -> str:
    """Return the first thing that is wrong, in one line."""
    details = error.errors() if hasattr(error, "errors") else []
    return str(details[0]["msg"]).removeprefix("Value error, ") if details else str(error).splitlines()[0]


def _blocks(name: str, recipe: ProbeRecipe, count: int) -> tuple[int, ...]:
    """Return the blocks of a network of ``count`` blocks that are probed.

    Raises:
        ConfigError: if it does not have one.
    """
    if recipe.blocks == "last":
        return (count - 1,)
    if recipe.blocks == "all":
        return tuple(range(count))
    outside = [block for block in recipe.blocks if not -count <= block < count]
    if outside:
        raise ConfigError(f"blocks: {outside} are outside models.{name}, a network of {count} blocks")
    return tuple(sorted({block % count for block in recipe.blocks}))


def _targets(blocks: tuple[int, ...], final_norm: bool, cls_token: bool) -> dict[str, Any]:
    """Return the settings of a teacher of which these blocks are read, with their class tokens."""
    norm = "final" if final_norm else "none"
    summaries = {f"cls_{block}": {"kind": "summary", "blocks": (block,), "norm": norm} for block in blocks if cls_token}
    return {"target": {"blocks": blocks, "norm": norm}, "more_targets": summaries}
