"""Layouts of Hugging Face folders: ``VideoMAE*`` and ``ViTMAE*``, and the settings in their ``config.json``.

Transformers up to 4 names the biases of queries and values ``q_bias`` and ``v_bias``; 5 names them ``query.bias`` and
``value.bias``, and some of its releases load the older names as zeros without an error. Both are read; the older ones are
written, which 4 and the newer releases of 5 read alike. Its norms have other epsilons than the published networks:
1e-12 in the blocks by default, 1e-5 in the decoder's and the classifier's last norm; they are read from the folder's
config, so that the numbers are those of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mvd_ds.config import ConfigError
from mvd_ds.files import one_line
from mvd_ds.models.formats.foreign import LARGEST_DEPTH, LARGEST_SIDE, LARGEST_WIDTH, SHOWN, flag, number, part, side, whole
from mvd_ds.models.formats.rules import PARTS, FrozenTable, Layout, Rule, hidden_ratio

#: Epsilon of ``nn.LayerNorm`` where transformers leaves it at torch's default.
TORCH_EPS = 1e-5

_BLOCK = (
    Rule("layernorm_before.{w}", "norm_attention.{w}"),
    *(Rule(f"attention.attention.{part}.weight", "attention.qkv.weight", part) for part in PARTS),  # type: ignore[arg-type]
    Rule("attention.output.dense.{w}", "attention.projection.{w}"),
    Rule("layernorm_after.{w}", "norm_mlp.{w}"),
    Rule("intermediate.dense.{w}", "mlp.expand.{w}"),
    Rule("output.dense.{w}", "mlp.contract.{w}"),
)
_BIASES: dict[str, tuple[Rule, ...]] = {
    "query_value": (
        Rule("attention.attention.q_bias", "attention.qkv.q_bias"),
        Rule("attention.attention.v_bias", "attention.qkv.v_bias"),
        Rule("attention.attention.query.bias", "attention.qkv.q_bias"),
        Rule("attention.attention.value.bias", "attention.qkv.v_bias"),
    ),
    "full": tuple(Rule(f"attention.attention.{part}.bias", "attention.qkv.bias", part) for part in PARTS),  # type: ignore[arg-type]
}
#: Names inside ``ViTMAE`` models of transformers 5, for state dicts taken from a model and not from a file.
_NEW_IMAGE_BLOCK = (
    Rule("layernorm_before.{w}", "norm_attention.{w}"),
    *(Rule(f"attention.{part[0]}_proj.{kind}", f"attention.qkv.{kind}", part) for kind in ("weight", "bias") for part in PARTS),  # type: ignore[arg-type]
    Rule("attention.o_proj.{w}", "attention.projection.{w}"),
    Rule("layernorm_after.{w}", "norm_mlp.{w}"),
    Rule("mlp.fc1.{w}", "mlp.expand.{w}"),
    Rule("mlp.fc2.{w}", "mlp.contract.{w}"),
)


def _blocks(theirs: str, ours: str, bias: Literal["query_value", "full"]) -> tuple[Rule, ...]:
    rules = (*_BLOCK, *_BIASES[bias], *(_NEW_IMAGE_BLOCK if bias == "full" else ()))
    return tuple(Rule(f"{theirs}.{{i}}.{rule.theirs}", f"{ours}.{{i}}.{rule.ours}", rule.form) for rule in rules)


def _video_encoder(prefix: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{prefix}embeddings.patch_embeddings.projection.{{w}}", "encoder.patch_embed.{w}"),
        *_blocks(f"{prefix}encoder.layer", "encoder.blocks", "query_value"),
    )


def _image_encoder(prefix: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{prefix}embeddings.patch_embeddings.projection.weight", "encoder.patch_embed.weight", "frame"),
        Rule(f"{prefix}embeddings.patch_embeddings.projection.bias", "encoder.patch_embed.bias"),
        Rule(f"{prefix}embeddings.cls_token", "encoder.cls_token.weight"),
        *_blocks(f"{prefix}encoder.layer", "encoder.blocks", "full"),
        *_blocks(f"{prefix}layers", "encoder.blocks", "full"),
        Rule(f"{prefix}layernorm.{{w}}", "encoder.norm.{w}"),
    )


_VIDEO = {"kind": "video", "position": "sinusoid1d", "qkv_bias": "query_value", "cls_token": False}
_IMAGE = {"kind": "image", "position": "sincos2d", "qkv_bias": "full", "cls_token": True, "final_norm": True}

HF_VIDEOMAE = Layout(
    name="hf_videomae",
    title="Hugging Face VideoMAEModel",
    model="encoder",
    rules=(*_video_encoder(""), Rule("layernorm.{w}", "encoder.norm.{w}")),
    settings=_VIDEO,
)
HF_VIDEOMAE_PRETRAINING = Layout(
    name="hf_videomae_pretraining",
    title="Hugging Face VideoMAEForPreTraining",
    model="predictor",
    decoder={"projection_bias": False},
    rules=(
        *_video_encoder("videomae."),
        Rule("videomae.layernorm.{w}", "encoder.norm.{w}"),
        Rule("encoder_to_decoder.weight", "decoders.pixels.projection.weight"),
        Rule("mask_token", "decoders.pixels.mask_token.weight"),
        *_blocks("decoder.decoder_layers", "decoders.pixels.blocks", "query_value"),
        Rule("decoder.norm.{w}", "decoders.pixels.norm.{w}"),
        Rule("decoder.head.{w}", "decoders.pixels.head.{w}"),
    ),
    settings=_VIDEO,
)
HF_VIDEOMAE_CLASSIFIER = Layout(
    name="hf_videomae_classifier",
    title="Hugging Face VideoMAEForVideoClassification",
    model="classifier",
    rules=(*_video_encoder("videomae."), Rule("fc_norm.{w}", "norm.{w}"), Rule("classifier.{w}", "head.{w}")),
    settings=_VIDEO,
)
HF_VITMAE = Layout(
    name="hf_vitmae",
    title="Hugging Face ViTMAEModel",
    model="encoder",
    rules=_image_encoder(""),
    settings=_IMAGE,
    tables=(FrozenTable("embeddings.position_embeddings", "sincos2d", has_cls=True),),
)
HF_VITMAE_PRETRAINING = Layout(
    name="hf_vitmae_pretraining",
    title="Hugging Face ViTMAEForPreTraining",
    model="predictor",
    decoder={"projection_bias": True},
    rules=(
        *_image_encoder("vit."),
        Rule("decoder.decoder_embed.{w}", "decoders.pixels.projection.{w}"),
        Rule("decoder.mask_token", "decoders.pixels.mask_token.weight"),
        *_blocks("decoder.decoder_layers", "decoders.pixels.blocks", "full"),
        *_blocks("decoder.decoder_encoder.layer", "decoders.pixels.blocks", "full"),  # written so by transformers 5.23
        Rule("decoder.decoder_norm.{w}", "decoders.pixels.norm.{w}"),
        Rule("decoder.decoder_pred.{w}", "decoders.pixels.head.{w}"),
    ),
    settings=_IMAGE,
    tables=(
        FrozenTable("vit.embeddings.position_embeddings", "sincos2d", has_cls=True),
        FrozenTable("decoder.decoder_pos_embed", "sincos2d", has_cls=True, of="pixels"),
    ),
)


def stated_settings(config: Mapping[str, Any], origin: str) -> dict[str, dict[str, Any]]:
    """Return the settings of encoder, decoder, classifier and clip that a folder's ``config.json`` states.

    Raises:
        ConfigError: if it describes a network that is not built here.
    """
    wrong = []
    if config.get("hidden_act", "gelu") != "gelu":
        wrong.append(f"hidden_act {one_line(config['hidden_act'], SHOWN)}: only gelu is built here")
    if not flag(config, "qv_bias", flag(config, "qkv_bias", True, origin), origin):
        wrong.append("attention without biases is not built here")
    if config.get("num_channels", 3) != 3:
        wrong.append(f"num_channels {one_line(config['num_channels'], SHOWN)}: clips here have 3")
    if wrong:
        raise ConfigError(f"{origin}: {'; '.join(wrong)}")

    def sized(key: str, default: int, largest: int = LARGEST_WIDTH) -> int:
        return whole(config, key, default, largest, origin)

    is_video = config.get("model_type") == "videomae"
    eps, width = number(config, "layer_norm_eps", 1e-12, 1e-30, 0.1, origin), sized("hidden_size", 768)
    decoder_width = sized("decoder_hidden_size", 384 if is_video else 512)
    return {
        "encoder": {
            "embed_dim": width,
            "depth": sized("num_hidden_layers", 12, LARGEST_DEPTH),
            "num_heads": sized("num_attention_heads", 12),
            "mlp_ratio": hidden_ratio(sized("intermediate_size", 3072, 16 * LARGEST_WIDTH), width),
            "patch_px": side(config, "patch_size", 16, origin),
            "tubelet_frames": sized("tubelet_size", 2, LARGEST_SIDE) if is_video else 1,
            "norm_eps": eps,
            "final_norm": not flag(config, "use_mean_pooling", True, origin) if is_video else True,
        },
        "decoder": {
            "embed_dim": decoder_width,
            "depth": whole(config, "decoder_num_hidden_layers", 4 if is_video else 8, LARGEST_DEPTH, origin, least=0),
            "num_heads": sized("decoder_num_attention_heads", 6 if is_video else 16),
            "mlp_ratio": hidden_ratio(
                sized("decoder_intermediate_size", 1536 if is_video else 2048, 16 * LARGEST_WIDTH), decoder_width
            ),
            "norm_eps": TORCH_EPS if is_video else eps,
        },
        "classifier": {"norm_eps": TORCH_EPS},
        "clip": {
            "size_px": side(config, "image_size", 224, origin),
            "frames": sized("num_frames", 16, LARGEST_SIDE) if is_video else 1,
        },
    }


def is_videomae_v2(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is that of a hub folder of VideoMAE v2, whose code comes with it."""
    return str(config.get("model_type", ""))[:20].lower().startswith("videomaev2") or isinstance(config.get("model_config"), dict)


def stated_videomae_v2(config: Mapping[str, Any], origin: str) -> dict[str, dict[str, Any]]:
    """Return the settings of encoder and clip that a hub folder of VideoMAE v2 states, with its defaults (ViT-B).

    Raises:
        ConfigError: if it describes a network that is not built here.
    """
    values = {**config, **part(config, "model_config", origin)}
    wrong = [
        f"{key}: {one_line(values[key], SHOWN)} is not built here"
        for key, built in (("init_values", 0), ("cos_attn", False), ("use_learnable_pos_emb", False), ("qk_scale", None))
        if values.get(key, built) not in (built, None)
    ]
    if not flag(values, "qkv_bias", True, origin):
        wrong.append("attention without biases is not built here")
    if wrong:
        raise ConfigError(f"{origin}: {'; '.join(wrong)}")
    width = whole(values, "embed_dim", 768, LARGEST_WIDTH, origin)
    # int(width * ratio) is the hidden width in its code too; its giant has 48 / 11.
    ratio = number(values, "mlp_ratio", 4.0, 1e-3, 1e3, origin)
    return {
        "encoder": {
            "embed_dim": width,
            "depth": whole(values, "depth", 12, LARGEST_DEPTH, origin),
            "num_heads": whole(values, "num_heads", 12, LARGEST_WIDTH, origin),
            "mlp_ratio": hidden_ratio(int(width * ratio), width) if int(width * ratio) else ratio,
            "patch_px": side(values, "patch_size", 16, origin),
            "tubelet_frames": whole(values, "tubelet_size", 2, LARGEST_SIDE, origin),
            "norm_eps": number(values, "layer_norm_eps", 1e-6, 1e-30, 0.1, origin),
        },
        "clip": {
            "size_px": side(values, "img_size", 224, origin),
            "frames": whole(values, "num_frames", whole(values, "all_frames", 16, LARGEST_SIDE, origin), LARGEST_SIDE, origin),
        },
    }
