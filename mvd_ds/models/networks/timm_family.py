"""Any image network of timm as the encoder of a teacher: features of a frame as a grid of tokens."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ConfigError, TeacherSettings, TrainingRecipe
from mvd_ds.models.networks.deferred import deferred
from mvd_ds.models.networks.family import PlannedNetwork, Reading, reads_of
from mvd_ds.models.networks.measured import ForwardCost, forward_cost
from mvd_ds.models.networks.renormalised import Renormalised
from mvd_ds.models.networks.timm_attention import AttentionTaps, is_tappable
from mvd_ds.models.networks.timm_building import create_network, first_line, read_weights

logger = logging.getLogger(__name__)


class TimmNetwork(nn.Module):
    """Features of frames from a network of timm, in the order of rows and columns, without class and register tokens.

    Args:
        network: network of timm, with its weights.
        settings: which blocks, and through the final norm or not.
        grid: (h, w) that the recipe states.
    """

    def __init__(self, network: nn.Module, settings: TeacherSettings, grid: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.reads = reads_of(settings, _count_features(network))
        self.grid = (1, *grid)
        stated: dict[str, Any] = getattr(network, "pretrained_cfg", {}) or {}
        mean = tuple(settings.input_mean or stated.get("mean") or IMAGENET_MEAN)
        std = tuple(settings.input_std or stated.get("std") or IMAGENET_STD)
        self.pixels = Renormalised(mean, std)
        self.taps = AttentionTaps(network, self.reads.attention) if self.reads.attention and is_tappable(network) else None

    def forward(self, frames: Tensor) -> Reading:
        """Map (B, C, H, W) normalised to what is read."""
        class_tokens = bool(self.reads.summaries) and getattr(self.network, "cls_token", None) is not None
        outputs = self.network.forward_intermediates(  # type: ignore[operator]
            self.pixels(frames),
            indices=list(self.reads.outputs),
            norm=self.reads.through_norm,
            output_fmt="NCHW",
            intermediates_only=True,
            **({"return_prefix_tokens": True} if class_tokens else {}),
        )
        tokens, summaries = {}, {}
        for block, output in zip(self.reads.outputs, outputs, strict=True):
            features, prefix = output if class_tokens else (output, None)
            patches = features.flatten(2).transpose(1, 2)
            if block in self.reads.blocks:
                tokens[block] = patches
            if block in self.reads.summaries:
                summaries[block] = self._summary(patches, prefix, block)
        return Reading(tokens, summaries, attention={} if self.taps is None else self.taps.rows())

    def _summary(self, patches: Tensor, prefix: Tensor | None, block: int) -> Tensor:
        """Return (B, D): attention pooling where the network ends with it, else the class token."""
        pool = self.pool_of(block)
        if pool is None:
            assert prefix is not None
            return prefix[:, 0]
        joined = patches if prefix is None else torch.cat((prefix, patches), dim=1)
        return self.network.fc_norm(pool(joined))  # type: ignore[operator]

    def pool_of(self, block: int) -> nn.Module | None:
        """Return the attention pooling of the network where it follows this block, after the final norm."""
        is_last = self.reads.through_norm and block == _count_features(self.network) - 1
        return getattr(self.network, "attn_pool", None) if is_last else None


class TimmFeatures:
    """A ``TimmNetwork`` behind the interface of frozen networks.

    Args:
        network: the network with its weights.
        settings: the teacher's settings.
    """

    is_selective = False

    def __init__(self, network: TimmNetwork, settings: TeacherSettings) -> None:
        self.module = network
        self.embed_dim, self.grid = settings.embed_dim, network.grid
        self.input_mean, self.input_std = network.pixels.mean, network.pixels.std
        self.reads, self.block_count = network.reads, _count_features(network.network)

    def read(self, clip: Tensor, wanted: Tensor | None = None) -> Reading:
        """Return the features (B, h * w, D) of frames (B, C, 1, H, W); see ``FrozenNetwork``."""
        assert wanted is None, "networks of timm give all tokens"
        return self.module(clip.squeeze(2))


def plan_network(settings: TeacherSettings, frames: int, size_px: int, seed: int, origin: str) -> PlannedNetwork:
    """Return the network of a teacher, checked against what its recipe states.

    Args:
        settings: settings of the teacher.
        frames: frames of a clip, which an image network does not see.
        size_px: side of the frames that it will see.
        seed: seed of its weights where they are random.
        origin: names the teacher in messages.

    Raises:
        ConfigError: if timm does not know it, its width or grid is another than stated, or its weights do not fit.
    """
    name = settings.timm_name
    assert name is not None

    def construct() -> TimmNetwork:
        return TimmNetwork(create_network(name, size_px, seed, origin).eval(), settings, settings.frame_grid(size_px))

    with torch.device("meta"):
        structure = construct()
    if not hasattr(structure.network, "forward_intermediates"):
        raise ConfigError(f"{origin}.network: timm's {name} gives no feature maps (forward_intermediates)")

    @functools.cache
    def tensors() -> dict[str, Tensor]:
        if settings.is_random:
            with torch.device("cpu"):
                found = create_network(name, size_px, seed, origin).state_dict()
        else:
            found = read_weights(structure.network, settings.weights, f"{origin}.weights")
        return {f"network.{key}": value for key, value in found.items()}

    if not settings.is_random:
        tensors()
    _check_blocks(structure.network, settings, origin)
    if settings.gives_attention and structure.taps is None:
        raise ConfigError(
            f"{origin}: masking.kind attention reads the attention of plain vision transformers of timm, which {name} is not; "
            "take another masking.teacher, or the same network as hf:FOLDER"
        )
    _check(structure, settings, size_px, origin)
    if structure.pixels.is_needed:
        logger.info("%s: clips are renormalised to the mean and deviation that timm's %s expects", origin, name)

    def adapt(module: nn.Module) -> TimmFeatures:
        assert isinstance(module, TimmNetwork)
        return TimmFeatures(module, settings)

    return PlannedNetwork(deferred(construct, tensors), adapt, True)


def outline(settings: TeacherSettings, frames: int, size_px: int) -> tuple[nn.Module, int]:
    """Return the network of a teacher without data, and 1: how many blocks it has is timm's to know."""
    import timm

    assert settings.timm_name is not None
    with torch.device("meta"):
        return timm.create_model(settings.timm_name, num_classes=0), settings.depth


def forward_flops(recipe: TrainingRecipe, settings: TeacherSettings) -> int:
    """Return the operations of one forward for one clip."""
    return recipe.teacher_grid(settings)[0] * _clip_cost(recipe, settings).flops


def forward_peak(recipe: TrainingRecipe, settings: TeacherSettings) -> int:
    """Return the numbers that a forward for one clip holds at once."""
    return recipe.teacher_grid(settings)[0] * _clip_cost(recipe, settings).peak_bytes // 4


def _clip_cost(recipe: TrainingRecipe, settings: TeacherSettings) -> ForwardCost:
    assert settings.timm_name is not None
    return frame_cost(settings.timm_name, settings.input_px or recipe.data.clip.size_px)


def _count_features(network: nn.Module) -> int:
    """Return the number of features that a network offers: its blocks, or its stages where resolution changes."""
    return len(network.feature_info)  # type: ignore[arg-type]


def _check_blocks(network: nn.Module, settings: TeacherSettings, origin: str) -> None:
    count = _count_features(network)
    asked = sorted({block for target in settings.targets.values() for block in target.blocks})
    outside = [block for block in asked if not -count <= block < count]
    if outside:
        raise ConfigError(f"{origin}.target.blocks: {outside} are outside the {count} features of timm's {settings.timm_name}")


class _Features(nn.Module):
    """The features of a network, as a forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        return self.network.forward_features(frames)  # type: ignore[operator]


@functools.cache
def frame_cost(name: str, size_px: int) -> ForwardCost:
    """Return the cost of one frame, counted by torch on tensors without data."""
    with torch.device("meta"):
        network = create_network(name, size_px, 0, "cost").eval().requires_grad_(False)
    return forward_cost(_Features(network), (1, 3, size_px, size_px))


def _require_summary(encoder: TimmNetwork, settings: TeacherSettings, origin: str) -> None:
    """Refuse a summary that the network has not."""
    for block in encoder.reads.summaries:
        if getattr(encoder.network, "cls_token", None) is None and encoder.pool_of(block) is None:
            pooled = "; with norm: final it has one of its last block" if getattr(encoder.network, "attn_pool", None) else ""
            raise ConfigError(
                f"{origin}: timm's {settings.timm_name} has no class token for kind summary{pooled}; set target.summary=mean"
            )


@torch.no_grad()
def _check(encoder: TimmNetwork, settings: TeacherSettings, size_px: int, origin: str) -> None:
    """Run one frame without data and compare the shape of what comes out with what is stated."""
    _require_summary(encoder, settings, origin)
    try:
        with torch.device("meta"):
            frame = torch.zeros(1, 3, size_px, size_px)
            features = encoder.network.forward_intermediates(  # type: ignore[operator]
                frame, indices=list(encoder.reads.outputs), output_fmt="NCHW", intermediates_only=True
            )
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{origin}.network: timm's {settings.timm_name} does not take {size_px} px: {first_line(error)}"
        ) from None
    shapes = {tuple(feature.shape[1:]) for feature in features}
    if len(shapes) > 1:
        raise ConfigError(f"{origin}.target.blocks: features of {list(encoder.reads.outputs)} differ in shape, {sorted(shapes)}")
    width, *grid = shapes.pop()
    wrong = []
    if width != settings.embed_dim:
        wrong.append(f"embed_dim is {width} there and {settings.embed_dim} in the recipe")
    if tuple(grid) != encoder.grid[1:]:
        wrong.append(f"its grid at {size_px} px is {tuple(grid)} there and {encoder.grid[1:]} in the recipe (set feature_grid)")
    if wrong:
        raise ConfigError(f"{origin}.network: timm's {settings.timm_name}: {'; '.join(wrong)}")
