"""Networks of transformers as frozen networks: ``network: hf:FOLDER`` or a name in the user's Hugging Face cache."""

from __future__ import annotations

import functools
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError, Grid, TeacherSettings, TrainingRecipe
from mvd_ds.config.networks.hf_folder import SIZE_NAMES, find_folder, read_config
from mvd_ds.files import one_line
from mvd_ds.models.formats.processor import read_processor
from mvd_ds.models.networks.deferred import deferred
from mvd_ds.models.networks.family import PlannedNetwork, Reads, reads_of
from mvd_ds.models.networks.hf_attention import register_reading
from mvd_ds.models.networks.hf_network import HfNetwork, HfTower
from mvd_ds.models.networks.hf_towers import Tower, build_config, build_network
from mvd_ds.models.networks.hf_weights import read_weights
from mvd_ds.models.networks.measured import ForwardCost, forward_cost
from mvd_ds.models.networks.renormalised import Colours

logger = logging.getLogger(__name__)

#: Mean and deviation where only shapes are looked at.
_ANY_PIXELS = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def plan_network(settings: TeacherSettings, frames: int, size_px: int, seed: int, origin: str) -> PlannedNetwork:
    """Return the network of a teacher, its weights random or found to fit.

    Args:
        settings: the teacher's settings.
        frames: frames of a clip.
        size_px: side of the frames that it will see.
        seed: seed of random weights.
        origin: names the teacher in messages.

    Raises:
        ConfigError: in one line, if the folder is missing or brings code, if it is another network than the recipe states, or
            if its weights do not fit.
    """
    name = settings.hf_name
    assert name is not None
    place = f"{origin}.network {settings.network}"
    folder = find_folder(name)
    values, inputs = read_config(folder), 1 if settings.kind == "image" else frames
    config = build_config(values, size_px, frames, place)
    with torch.device("meta"):
        whole, tower = build_network(config, place)
    _require_same(settings, config, tower, place)
    _require_size(tower, config, frames, size_px, place)
    reads, depth = _reads(whole, tower, settings, place)
    pixels = _pixels(folder, values, settings, size_px, place)
    grid = settings.grid(inputs, size_px)
    prefix = _count_prefix(config, reads, grid, inputs, size_px, place)
    attention = register_reading() if reads.qkv or reads.attention else "sdpa"

    @functools.cache
    def tensors() -> dict[str, Tensor]:
        if settings.is_random:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.manual_seed(seed)
                drawn = _part(build_network(config, place)[0], tower).state_dict()
        else:
            drawn = read_weights(whole, tower.part, settings.weights, f"{origin}.weights")
        return {f"network.{key}": value for key, value in drawn.items()}

    def construct() -> HfTower:
        return HfTower(_part(build_network(config, place, attention)[0], tower), tower, reads, pixels)

    def adapt(module: nn.Module) -> HfNetwork:
        assert isinstance(module, HfTower)
        return HfNetwork(module, settings, grid, prefix, depth, reads)

    if not settings.is_random:
        tensors()
    has_norm = bool(tower.norm) and isinstance(getattr(_part(whole, tower), tower.norm, None), nn.Module)
    return PlannedNetwork(deferred(construct, tensors), adapt, has_norm)


def outline(settings: TeacherSettings, frames: int, size_px: int) -> tuple[nn.Module, int]:
    """Return the network of a teacher without data and without what is not read, and its number of blocks."""
    assert settings.hf_name is not None
    place = f"network {settings.network}"
    config = build_config(read_config(find_folder(settings.hf_name)), size_px, frames, place)
    with torch.device("meta"):
        whole, tower = build_network(config, place)
        reads, depth = _reads(whole, tower, settings, place)
        module = HfTower(_part(whole, tower), tower, reads, _ANY_PIXELS)
    return module, depth if module.is_pooled else reads.last + 1


def forward_flops(recipe: TrainingRecipe, settings: TeacherSettings) -> int:
    """Return the operations of one forward for one clip."""
    inputs, cost = _cost(recipe, settings)
    return inputs * cost.flops


def forward_peak(recipe: TrainingRecipe, settings: TeacherSettings) -> int:
    """Return the numbers that a forward for one clip holds at once."""
    inputs, cost = _cost(recipe, settings)
    return inputs * cost.peak_bytes // 4


def _cost(recipe: TrainingRecipe, settings: TeacherSettings) -> tuple[int, ForwardCost]:
    """Return the number of inputs of a clip, and the cost of one."""
    inputs = recipe.teacher_grid(settings)[0] if settings.kind == "image" else 1
    frames = 1 if settings.kind == "image" else settings.input_frames or recipe.data.clip.frames
    size_px = settings.input_px or recipe.data.clip.size_px
    return inputs, forward_cost(outline(settings, frames, size_px)[0], (1, 3, frames, size_px, size_px))


def _part(network: nn.Module, tower: Tower) -> Any:
    return network.get_submodule(tower.part)


def _reads(network: nn.Module, tower: Tower, settings: TeacherSettings, place: str) -> tuple[Reads, int]:
    """Return what is read of a network, and how many blocks it has.

    Raises:
        ConfigError: in one line, if it has no such block.
    """
    depth = len(_part(network, tower).get_submodule(tower.blocks))
    asked = sorted({block for target in settings.targets.values() for block in target.blocks})
    outside = [block for block in asked if not -depth <= block < depth]
    if outside:
        raise ConfigError(f"{place}: target.blocks {outside} are outside its {depth} blocks")
    return reads_of(settings, depth), depth


def _require_same(settings: TeacherSettings, config: Any, tower: Tower, place: str) -> None:
    """Refuse a network that is another than its recipe states.

    Raises:
        ConfigError: in one line, naming every size that differs.
    """
    stated = {key: getattr(config, names[0], None) for key, names in SIZE_NAMES.items()} | {"kind": tower.kind}
    stated = {key: value[0] if isinstance(value, list | tuple) else value for key, value in stated.items()}
    wrong = [
        f"{key} is {value} there and {getattr(settings, key)} in the recipe"
        for key, value in stated.items()
        if value is not None and value != getattr(settings, key)
    ]
    if wrong:
        raise ConfigError(f"{place}: {'; '.join(wrong)}")


def _require_size(tower: Tower, config: Any, frames: int, size_px: int, place: str) -> None:
    """Refuse clips of another size than the network takes, and say what is done where its positions are resized.

    Raises:
        ConfigError: in one line, with the size that it takes.
    """
    own, own_frames = getattr(config, "image_size", None), getattr(config, "num_frames", None)
    own = own[0] if isinstance(own, list | tuple) else own
    if tower.sizes == "own" and own not in (None, size_px):
        raise ConfigError(f"{place}: it takes frames of {own} px, not {size_px}; set input_px {own}")
    if tower.sizes == "own" and tower.kind == "video" and own_frames not in (None, frames):
        raise ConfigError(f"{place}: it takes clips of {own_frames} frames, not {frames}; set input_frames {own_frames}")
    if tower.sizes == "resized" and own not in (None, size_px):
        logger.info("%s: its positions, learned for %s px, are resized to %d px in every forward pass", place, own, size_px)


def _pixels(folder: Path, values: Any, settings: TeacherSettings, size_px: int, place: str) -> tuple[Colours, Colours]:
    """Return mean and deviation of a network's pixels: what is stated in the recipe, or by the folder's processor.

    Raises:
        ConfigError: in one line, if neither states them.
    """
    processor = read_processor(folder, values)
    if processor is None and (settings.input_mean is None or settings.input_std is None):
        raise ConfigError(
            f"{place}: {one_line(folder)} has no preprocessor_config.json, so that the pixels it was trained on are not known; "
            "state input_mean and input_std beside it"
        )
    mean = settings.input_mean or processor.mean  # type: ignore[union-attr]
    std = settings.input_std or processor.std  # type: ignore[union-attr]
    logger.info("%s: pixels of mean %s and deviation %s, %d px", place, mean, std, size_px)
    for difference in processor.differences(size_px) if processor else []:
        logger.info("%s: %s", place, difference)
    return mean, std


@torch.no_grad()
def _count_prefix(config: Any, reads: Reads, grid: Grid, frames: int, size_px: int, place: str) -> int:
    """Return the number of class and register tokens: run one input without data, and compare with the grid.

    Raises:
        ConfigError: in one line, if it does not run, or its blocks give no token for every patch.
    """
    with torch.device("meta"):
        whole, tower = build_network(config, place)
        read = Reads(tuple(sorted({*reads.blocks, *reads.summaries, *reads.qkv, *reads.attention})))
        network = HfTower(_part(whole, tower), tower, read, _ANY_PIXELS).to("meta")
    try:
        with torch.device("meta"):
            network(torch.zeros(1, 3, frames, size_px, size_px))
        shapes = {tuple(tokens.shape) for tokens in network.seen.values()}
    except Exception as error:  # whatever a network raises for sizes that it does not take
        raise ConfigError(f"{place}: it does not take {frames} x {size_px} px: {one_line(error, 200)}") from None
    count, width = math.prod(grid), network.network.config.hidden_size
    if len(shapes) != 1 or len(shape := shapes.pop()) != 3 or shape[2] != width or shape[1] < count:
        raise ConfigError(f"{place}: its blocks do not give {count} patch tokens of width {width} for {frames} x {size_px} px")
    return shape[1] - count
