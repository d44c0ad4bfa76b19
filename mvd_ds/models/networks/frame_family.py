"""Image networks of our own families as frozen networks: ``network: dhvt:NAME``, ``patchconv:NAME`` and ``dvae:dalle``."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ConfigError, TeacherSettings, TrainingRecipe
from mvd_ds.models.formats.containers import open_stored
from mvd_ds.models.formats.strict import require_fit
from mvd_ds.models.networks.deferred import deferred
from mvd_ds.models.networks.dhvt import Dhvt
from mvd_ds.models.networks.dvae import DvaeEncoder, read_dvae
from mvd_ds.models.networks.family import PlannedNetwork, Reading, reads_of
from mvd_ds.models.networks.patchconv import PatchConvNet
from mvd_ds.models.networks.renormalised import Renormalised

logger = logging.getLogger(__name__)

Network = Dhvt | PatchConvNet | DvaeEncoder
FAMILIES: dict[str, type[Network]] = {"dhvt": Dhvt, "patchconv": PatchConvNet, "dvae": DvaeEncoder}
"""Networks that give tokens, and a class token if they have one, after any blocks, by the name of their family."""


class FrameNetwork(nn.Module):
    """A network of frames without what is not read of it.

    Args:
        network: the network; it loses blocks behind the last one that is read, and a norm and a summary that are not.
        settings: the teacher's settings.
    """

    def __init__(self, network: Network, settings: TeacherSettings) -> None:
        super().__init__()
        self.network, self.reads = network, reads_of(settings, settings.depth)
        self.pixels = Renormalised(settings.input_mean or IMAGENET_MEAN, settings.input_std or IMAGENET_STD)
        network.blocks = network.blocks[: self.reads.last + 1]
        if not self.reads.summaries:
            if isinstance(network, PatchConvNet):
                del network.blocks_token_only
            if not self.reads.through_norm:
                network.norm = nn.Identity()

    def forward(self, frames: Tensor) -> Reading:
        """Return what is read of frames (B, C, H, W)."""
        found = Reading({}, {})
        blocks = sorted({*self.reads.blocks, *self.reads.summaries})
        for block, (tokens, cls) in zip(blocks, self.network(self.pixels(frames), blocks), strict=True):
            if block in self.reads.blocks:
                found.tokens[block] = self.network.norm(tokens) if self.reads.through_norm else tokens
            if block in self.reads.summaries:
                found.summaries[block] = self.network.summarise(tokens, cls)
        return found


class FrameFeatures:
    """A ``FrameNetwork`` behind the interface of frozen networks.

    Args:
        module: the network with its weights.
        settings: the teacher's settings.
        grid: (h, w) of its tokens.
    """

    is_selective = False

    def __init__(self, module: FrameNetwork, settings: TeacherSettings, grid: tuple[int, int]) -> None:
        self.module, self.reads = module, module.reads
        self.embed_dim, self.block_count, self.grid = settings.embed_dim, settings.depth, (1, *grid)
        self.input_mean, self.input_std = module.pixels.mean, module.pixels.std

    def read(self, clip: Tensor, wanted: Tensor | None = None) -> Reading:
        """Run the network on frames (B, C, 1, H, W); see ``FrozenNetwork``."""
        assert wanted is None, "networks with convolutions give all tokens"
        return self.module(clip.squeeze(2))


def plan_network(settings: TeacherSettings, frames: int, size_px: int, seed: int, origin: str) -> PlannedNetwork:
    """Return the network of a teacher, its weights random or found to fit.

    Args:
        settings: the teacher's settings.
        frames: frames of a clip, which an image network does not see.
        size_px: side of the frames that it will see.
        seed: seed of random weights.
        origin: names the teacher in messages.

    Raises:
        ConfigError: if its weights are missing or do not fit, its patch does not divide the frame, or a block is outside.
    """
    try:
        grid = settings.frame_grid(size_px)
    except ValueError as error:
        raise ConfigError(f"{origin}.network {settings.network}: {error}") from None
    asked = sorted({block for target in settings.targets.values() for block in target.blocks})
    if outside := [block for block in asked if not -settings.depth <= block < settings.depth]:
        raise ConfigError(f"{origin}.target.blocks: {outside} are outside the {settings.depth} blocks of {settings.network}")

    @functools.cache
    def tensors() -> dict[str, Tensor]:
        found = _draw(settings, seed) if settings.is_random else _read(settings, f"{origin}.weights")
        return {f"network.{name}": value for name, value in found.items()}

    def adapt(module: nn.Module) -> FrameFeatures:
        assert isinstance(module, FrameNetwork)
        return FrameFeatures(module, settings, grid)

    if not settings.is_random:
        tensors()
    return PlannedNetwork(deferred(lambda: FrameNetwork(_build(settings), settings).eval(), tensors), adapt, True)


def outline(settings: TeacherSettings, frames: int, size_px: int) -> tuple[nn.Module, int]:
    """Return the network of a teacher without data and without what is not read, and its number of blocks."""
    with torch.device("meta"):
        network = FrameNetwork(_build(settings), settings)
    return network, network.reads.last + 1


def forward_flops(recipe: TrainingRecipe, settings: TeacherSettings) -> int:
    """Return the operations of one forward for one clip."""
    return recipe.teacher_grid(settings)[0] * frame_flops(settings, settings.input_px or recipe.data.clip.size_px)


def frame_flops(settings: TeacherSettings, size_px: int) -> int:
    """Return the operations of one frame, counted by torch on tensors without data."""
    network = outline(settings, 1, size_px)[0].eval().requires_grad_(False).to("meta")
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size_px, size_px))
    return counter.get_total_flops()


def _build(settings: TeacherSettings) -> Network:
    assert settings.network is not None
    build = FAMILIES[settings.network.partition(":")[0]]
    return build(settings.embed_dim, settings.depth, settings.num_heads, settings.patch_px)


def _draw(settings: TeacherSettings, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        return _build(settings).state_dict()


def _read(settings: TeacherSettings, origin: str) -> dict[str, Tensor]:
    """Return the weights in a published file, which fit whole but for the class head.

    Raises:
        ConfigError: if there is no such file, or it does not fit.
    """
    assert settings.network is not None
    try:
        if settings.network.startswith("dvae:"):
            tensors = read_dvae(Path(settings.weights))
        else:
            tensors = open_stored(Path(settings.weights)).tensors
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    heads = [name for name in tensors if name.startswith("head.")]
    if heads:
        logger.info("%s: ignored the class head: %s", origin, ", ".join(heads[:4]))
    found = {name: value for name, value in tensors.items() if name not in heads}
    with torch.device("meta"):
        whole = _build(settings)
    require_fit(whole, found, f"{origin} {settings.weights}")
    return found
