"""Layouts of V-JEPA 2: folders of Hugging Face, and files of the published code (2 and 2.1); the encoder alone.

==============  =================================================  ==========================================================
layout          names                                              what is not read
==============  =================================================  ==========================================================
hf_vjepa2       ``encoder.layer``, queries, keys, values apart     the predictor; pooler and class head
vjepa2          ``blocks``, packed, under ``target_encoder``       the predictor, the encoder that is averaged, position table
vjepa2_1        the same, under ``ema_encoder``                    the embedding of pictures, norms of earlier blocks
==============  =================================================  ==========================================================

2.1 adds a vector to all tokens of a video: it is read into the bias of their embedding, which gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvd_ds.config import ConfigError
from mvd_ds.config.networks.encoder import NETWORK_STYLES, STYLE_SIZES
from mvd_ds.files import one_line
from mvd_ds.models.formats.foreign import LARGEST_DEPTH, LARGEST_SIDE, LARGEST_WIDTH, SHOWN, flag, number, side, whole
from mvd_ds.models.formats.rules import PARTS, Ignored, Layout, Rule, block_rules, hidden_ratio

#: Settings that the layouts imply; sizes and epsilons are the file's.
_IMPLIED = ("kind", "position", "rope_side", "qkv_bias", "cls_token", "final_norm")
_SETTINGS = {name: {key: style.get(key) for key in _IMPLIED} for name, style in NETWORK_STYLES.items()}
_HEADS = {(int(size["embed_dim"]), int(size["depth"])): int(size["num_heads"]) for size in STYLE_SIZES.values()}


def _hugging_face(prefix: str) -> tuple[Rule, ...]:
    block = (
        Rule("norm1.{w}", "norm_attention.{w}"),
        *(Rule(f"attention.{part}.{kind}", f"attention.qkv.{kind}", part) for kind in ("weight", "bias") for part in PARTS),  # type: ignore[arg-type]
        Rule("attention.proj.{w}", "attention.projection.{w}"),
        Rule("norm2.{w}", "norm_mlp.{w}"),
        Rule("mlp.fc1.{w}", "mlp.expand.{w}"),
        Rule("mlp.fc2.{w}", "mlp.contract.{w}"),
    )
    return (
        Rule(f"{prefix}encoder.embeddings.patch_embeddings.proj.{{w}}", "encoder.patch_embed.{w}"),
        *(Rule(f"{prefix}encoder.layer.{{i}}.{rule.theirs}", f"encoder.blocks.{{i}}.{rule.ours}", rule.form) for rule in block),
        Rule(f"{prefix}encoder.layernorm.{{w}}", "encoder.norm.{w}"),
    )


HF_VJEPA2 = Layout(
    name="hf_vjepa2",
    title="Hugging Face VJEPA2Model",
    model="encoder",
    rules=(*_hugging_face(""), *_hugging_face("vjepa2.")),
    settings=_SETTINGS["vjepa2"],
    heads=_HEADS,
    ignored=(
        Ignored("predictor.{rest}", "the predictor: an encoder has none"),
        Ignored("vjepa2.predictor.{rest}", "the predictor: an encoder has none"),
        Ignored("pooler.{rest}", "attentive pooling of its class head: a teacher has none"),
        Ignored("classifier.{w}", "class head: a teacher has none"),
    ),
)
_PATCHES = Rule("patch_embed.proj.{w}", "encoder.patch_embed.{w}")
_BLOCKS = block_rules("blocks", "encoder.blocks", "full")
VJEPA2 = Layout(
    name="vjepa2",
    title="V-JEPA 2 encoder",
    model="encoder",
    rules=(_PATCHES, *_BLOCKS, Rule("norm.{w}", "encoder.norm.{w}")),
    settings=_SETTINGS["vjepa2"],
    heads=_HEADS,
    ignored=(Ignored("pos_embed", "a table that rotary positions replace"),),
)
VJEPA2_1 = Layout(
    name="vjepa2_1",
    title="V-JEPA 2.1 encoder",
    model="encoder",
    rules=(
        _PATCHES,
        Rule("video_mod_embed", "encoder.patch_embed.bias", "added"),
        *_BLOCKS,
        Rule("norms_block.3.{w}", "encoder.norm.{w}"),
    ),
    settings=_SETTINGS["vjepa2_1"],
    heads=_HEADS,
    ignored=(
        Ignored("norms_block.{i}.{w}", "norm of an earlier block's tokens, for its own training"),
        Ignored("patch_embed_img.{rest}", "embedding of pictures: clips have their own"),
        Ignored("img_mod_embed", "vector of pictures: clips have their own"),
    ),
)


def stated_settings(config: Mapping[str, Any], origin: str) -> dict[str, dict[str, Any]]:
    """Return the settings of encoder and clip that a folder's ``config.json`` states.

    Raises:
        ConfigError: if it describes a network that is not built here.
    """
    wrong = [
        f"{key} {one_line(config[key], SHOWN)} is not built here"
        for key, built in (("hidden_act", "gelu"), ("in_chans", 3))
        if config.get(key, built) != built
    ]
    if not flag(config, "qkv_bias", True, origin):
        wrong.append("attention without biases is not built here")
    if wrong:
        raise ConfigError(f"{origin}: {'; '.join(wrong)}")
    width = whole(config, "hidden_size", 1024, LARGEST_WIDTH, origin)
    hidden = max(1, int(width * number(config, "mlp_ratio", 4.0, 1e-3, 1e3, origin)))
    return {
        "encoder": {
            "embed_dim": width,
            "depth": whole(config, "num_hidden_layers", 24, LARGEST_DEPTH, origin),
            "num_heads": whole(config, "num_attention_heads", 16, LARGEST_WIDTH, origin),
            "mlp_ratio": hidden_ratio(hidden, width),
            "patch_px": side(config, "patch_size", 16, origin),
            "tubelet_frames": whole(config, "tubelet_size", 2, LARGEST_SIDE, origin),
            "norm_eps": number(config, "layer_norm_eps", 1e-6, 1e-30, 0.1, origin),
        },
        "clip": {
            "size_px": side(config, "crop_size", 256, origin),
            "frames": whole(config, "frames_per_clip", 64, LARGEST_SIDE, origin),
        },
    }
