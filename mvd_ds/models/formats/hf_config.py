"""JSON beside the weights that are written for transformers and timm: the network, its pixels, and its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ConfigError
from mvd_ds.models.formats.describe import Network
from mvd_ds.models.formats.huggingface import TORCH_EPS
from mvd_ds.models.formats.rules import Layout

#: Masking of ``ViTMAEForPreTraining`` where nobody asks for another. Source: MAE.
MASK_RATIO = 0.75
#: timm's networks by (width, depth, heads, patch).
TIMM_NAMES = {
    (192, 12, 3, 16): "vit_tiny_patch16_224",
    (384, 12, 6, 16): "vit_small_patch16_224",
    (768, 12, 12, 16): "vit_base_patch16_224",
    (1024, 24, 16, 16): "vit_large_patch16_224",
    (1280, 32, 16, 14): "vit_huge_patch14_224",
}


def hugging_face_config(layout: Layout, network: Network, classes: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return ``config.json`` of a folder for transformers, and what its readers will compute otherwise.

    Args:
        layout: a layout whose name begins with ``hf_``.
        network: the network that it is to describe.
        classes: names of a classifier's classes; none: transformers' own, LABEL_0 and so on.
    """
    if layout.name == "hf_vjepa2":
        return _vjepa2_config(network), ["its readers draw a predictor of their own: VJEPA2Model with skip_predictor=True"]
    encoder, is_image = network.encoder, layout.name.startswith("hf_vitmae")
    config: dict[str, Any] = {
        "model_type": "vit_mae" if is_image else "videomae",
        "architectures": [layout.title.removeprefix("Hugging Face ")],
        "image_size": network.clip["size_px"],
        "patch_size": encoder.patch_px,
        "num_channels": 3,
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": int(encoder.embed_dim * encoder.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": encoder.norm_eps,
        "qkv_bias": True,
    }
    if not is_image:
        video = {"num_frames": network.clip["frames"], "tubelet_size": encoder.tubelet_frames}
        config |= video | {"use_mean_pooling": not encoder.final_norm}
    notes = []
    if is_image and layout.model == "encoder":
        config["mask_ratio"] = 0.0
        notes.append(
            "ViTMAEModel shuffles patches even where it hides none; noise=torch.arange(PATCHES).expand(BATCH, -1) does not"
        )
    elif is_image:
        config["mask_ratio"] = MASK_RATIO
    if network.decoder is not None and layout.model == "predictor":
        decoder = network.decoder
        width, heads, _, norm_eps = decoder.sizes(encoder)
        config |= {
            "decoder_hidden_size": width,
            "decoder_num_hidden_layers": decoder.depth,
            "decoder_num_attention_heads": heads,
            "decoder_intermediate_size": int(width * decoder.mlp_ratio),
        }
        theirs = encoder.norm_eps if is_image else TORCH_EPS
        notes += _eps_note("the decoder's last norm", norm_eps, theirs)
    if network.classifier is not None and layout.model == "classifier":
        names = list(classes) or [f"LABEL_{index}" for index in range(network.classifier["classes"])]
        config |= {"id2label": {str(index): name for index, name in enumerate(names)}}
        config |= {"label2id": {name: index for index, name in enumerate(names)}}
        notes += _eps_note("the norm of the pooled token", network.classifier["norm_eps"] or encoder.norm_eps, TORCH_EPS)
    return config, notes


def hugging_face_processor(layout: Layout, network: Network) -> dict[str, Any]:
    """Return ``preprocessor_config.json``: without one, transformers normalises by other numbers than clips here have.

    V-JEPA 2's processor has these numbers of its own.
    """
    if layout.name == "hf_vjepa2":
        return {}
    side = network.clip["size_px"]
    return {
        "image_processor_type": "ViTImageProcessor" if layout.name.startswith("hf_vitmae") else "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def _vjepa2_config(network: Network) -> dict[str, Any]:
    encoder = network.encoder
    return {
        "model_type": "vjepa2",
        "architectures": ["VJEPA2Model"],
        "crop_size": network.clip["size_px"],
        "frames_per_clip": network.clip["frames"],
        "patch_size": encoder.patch_px,
        "tubelet_size": encoder.tubelet_frames,
        "in_chans": 3,
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "mlp_ratio": encoder.mlp_ratio,
        "layer_norm_eps": encoder.norm_eps,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }


def _eps_note(what: str, eps: float, theirs: float) -> list[str]:
    return [] if eps == theirs else [f"transformers computes {what} with epsilon {theirs:g}; this model has {eps:g}"]


def timm_config(network: Network, origin: str) -> dict[str, Any]:
    """Return ``config.json`` of a folder that ``timm.create_model("local-dir:FOLDER")`` reads.

    Raises:
        ConfigError: if timm has no network of this size; its tensors alone would still fit a ``VisionTransformer`` built by hand.
    """
    encoder = network.encoder
    name = TIMM_NAMES.get((encoder.embed_dim, encoder.depth, encoder.num_heads, encoder.patch_px), "vit_base_patch16_224")
    size = network.clip["size_px"]
    arguments: dict[str, Any] = {"img_size": size, "num_classes": 0, "global_pool": "token"}
    arguments |= {
        "embed_dim": encoder.embed_dim,
        "depth": encoder.depth,
        "num_heads": encoder.num_heads,
        "patch_size": encoder.patch_px,
        "mlp_ratio": encoder.mlp_ratio,
    }
    if abs(encoder.norm_eps - 1e-6) > 1e-12:
        raise ConfigError(f"{origin}: timm's ViT has norms of epsilon 1e-6, this model {encoder.norm_eps:g}")
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": encoder.embed_dim,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "num_classes": 0,
        },
    }
