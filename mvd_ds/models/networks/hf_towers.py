"""The networks of transformers that teach: which module is built, and where its blocks are.

======================  =====  ==================  ==========================================
``model_type``          input  other sizes         summary of a block
======================  =====  ==================  ==========================================
vjepa2                  video  any                 mean of its tokens
videomae                video  own only            mean of its tokens
vit_mae                 image  own only            class token
dinov2, .._registers    image  any                 class token
dinov3_vit              image  any                 class token
siglip                  image  positions resized   mean; of the last: its attention pooling
siglip2                 image  any                 mean; of the last: its attention pooling
clip                    image  positions resized   class token
any other of images     image  where it says so    class token, or the mean where it has none
======================  =====  ==================  ==========================================

Summaries and tokens are taken before or after the norm behind the last block, as the target says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError
from mvd_ds.config.networks.hf_folder import tower_config
from mvd_ds.files import did_you_mean, one_line

Inputs = Callable[[Any, Tensor], dict[str, Any]]


class Tower(NamedTuple):
    """A row of ``TOWERS``: what of a network is built and read, by the names of its modules."""

    kind: Literal["image", "video"]
    """Whether it takes frames or clips."""
    blocks: str
    """Its blocks, a ``ModuleList``."""
    norm: str
    """Its norm after the last block; empty where it has none."""
    sizes: Literal["any", "resized", "own"]
    """Frames that it takes: of any size; of any, for which its positions are resized; of the size in its config."""
    inputs: Inputs
    """(network, clip (B, C, T, H, W)) -> the arguments of its forward pass."""
    part: str = ""
    """The part of the class that is built; empty: all of it."""
    head: str = ""
    """The module that pools the tokens of the last block by attention, for its ``pooler_output``."""


def _frames(network: Any, clip: Tensor) -> dict[str, Any]:
    return {"pixel_values": clip.squeeze(2)}


def _resized_frames(network: Any, clip: Tensor) -> dict[str, Any]:
    return {"pixel_values": clip.squeeze(2), "interpolate_pos_encoding": True}


def _all_patches(network: Any, clip: Tensor) -> dict[str, Any]:
    """Keep the order of the patches of a masked autoencoder: its noise ascends, and its config hides nothing."""
    count = (clip.shape[-1] // network.config.patch_size) ** 2
    noise = torch.arange(count, device=clip.device, dtype=torch.float32)
    return {"pixel_values": clip.squeeze(2), "noise": noise.expand(len(clip), -1)}


def _patches(network: Any, clip: Tensor) -> dict[str, Any]:
    """Cut frames into rows of patches, each (row, column, colour), for networks that take any number of them."""
    side = network.config.patch_size
    rows, columns = clip.shape[-2] // side, clip.shape[-1] // side
    patches = clip.squeeze(2).unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 3, 5, 1)
    # On the CPU, so that nothing waits for the device.
    shapes = torch.tensor([[rows, columns]], device="cpu").expand(len(clip), -1)
    return {"pixel_values": patches.flatten(3).flatten(1, 2), "pixel_attention_mask": None, "spatial_shapes": shapes}


def _clip(name: str) -> Inputs:
    return lambda network, clip: {name: clip.transpose(1, 2)}


TOWERS: dict[str, Tower] = {
    "vjepa2": Tower("video", "layer", "layernorm", "any", _clip("pixel_values_videos"), "encoder"),
    "videomae": Tower("video", "encoder.layer", "layernorm", "own", _clip("pixel_values")),
    "vit_mae": Tower("image", "layers", "layernorm", "own", _all_patches),
    "dinov2": Tower("image", "encoder.layer", "layernorm", "any", _frames),
    "dinov2_with_registers": Tower("image", "encoder.layer", "layernorm", "any", _frames),
    "dinov3_vit": Tower("image", "model.layer", "norm", "any", _frames),
    "siglip_vision_model": Tower("image", "encoder.layers", "post_layernorm", "resized", _resized_frames, head="head"),
    "siglip2_vision_model": Tower("image", "encoder.layers", "post_layernorm", "any", _patches, head="head"),
    "clip_vision_model": Tower("image", "encoder.layers", "post_layernorm", "resized", _resized_frames),
}
"""Every network that is known by name, by the ``model_type`` of its config or of the vision part of it."""

#: Names of the norm after the last block, of networks that are in no row.
NORMS = ("layernorm", "norm", "post_layernorm", "layer_norm", "ln_post")


def import_transformers(origin: str) -> Any:
    """Return transformers, an optional package.

    Raises:
        ConfigError: in one line, if it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ConfigError(f"{origin}.network: hf: needs transformers; in the clone of mvd_ds: pip install '.[hf]'") from None
    return transformers


def build_config(values: Mapping[str, Any], size_px: int, frames: int, origin: str) -> Any:
    """Return the config object of the network of pixels that a ``config.json`` describes, for frames of ``size_px``.

    Only what describes the architecture is taken over: how attention is computed is chosen here.

    Raises:
        ConfigError: in one line, if transformers has no such network or cannot take a value.
    """
    transformers = import_transformers(origin)
    model_type = values.get("model_type")
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if model_type not in known:
        hint = did_you_mean(model_type, known, "newer releases may")
        raise ConfigError(
            f"{origin}: transformers {transformers.__version__} has no model_type {one_line(model_type, 60)}; {hint}"
        )
    try:
        config = transformers.AutoConfig.for_model(model_type, **_architecture(values))
        config = config if tower_config(values) is values else config.vision_config
    except Exception as error:  # whatever its validation raises
        raise ConfigError(f"{origin}: transformers does not take its config: {one_line(error, 200)}") from None
    if hasattr(config, "crop_size") and hasattr(config, "frames_per_clip"):
        config.crop_size, config.frames_per_clip = size_px, frames  # its positions are counted by these, and none is learned
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0
    return config


def _architecture(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without what chooses kernels, which might be fetched, and without what only its files say."""
    unwanted = ("model_type", "architectures", "transformers_version", "attn_implementation", "experts_implementation")
    return {
        key: _architecture(value) if isinstance(value, dict) and key.endswith("_config") else value
        for key, value in values.items()
        if not key.startswith("_") and key not in unwanted
    }


def build_network(config: Any, origin: str, attention: str = "sdpa") -> tuple[nn.Module, Tower]:
    """Return a network of transformers without its heads, and its row; fp32, in ``eval()``.

    Raises:
        ConfigError: in one line, if it takes no pixels, or gives no grid of patch tokens.
    """
    transformers = import_transformers(origin)
    mapping = transformers.models.auto.modeling_auto.MODEL_MAPPING
    if type(config) not in mapping:
        raise ConfigError(f"{origin}: transformers has no network without a head for {one_line(config.model_type, 60)}")
    kind = mapping[type(config)]
    options = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}
    try:
        # Constructors draw weights; those that are wanted come later, by name.
        with torch.random.fork_rng(devices=[]):
            network = kind._from_config(config, dtype=torch.float32, attn_implementation=attention, **options).eval()
    except Exception as error:
        raise ConfigError(f"{origin}: transformers cannot build {kind.__name__}: {one_line(error, 200)}") from None
    tower = TOWERS.get(config.model_type) or _guess(network, origin)
    return network, tower


def _guess(network: Any, origin: str) -> Tower:
    """Return the row of an image network that is not known by name: its longest list of equal blocks, and the norm beside it.

    Raises:
        ConfigError: in one line, if it takes no images or has no such list. The order in which an unknown network of videos
            gives its tokens cannot be seen from outside.
    """
    name, inputs = type(network).__name__, network.input_modalities
    inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    if inputs != ("image",):
        videos = ", ".join(row for row, tower in TOWERS.items() if tower.kind == "video")
        raise ConfigError(f"{origin}: {name} takes {' and '.join(inputs)}: teachers see images, or videos by {videos}")
    stacks = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
    }
    if not stacks:
        raise ConfigError(f"{origin}: {name} has no stack of equal blocks that could be read")
    blocks = max(stacks, key=lambda path: len(stacks[path]))
    norm = next((key for key in NORMS if isinstance(getattr(network, key, None), nn.Module)), "")
    resizes = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
    return Tower("image", blocks, norm, "resized" if resizes else "own", _resized_frames if resizes else _frames)
