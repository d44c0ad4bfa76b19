"""Files for others: a state dict of ours in another layout, with what that layout has beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ConfigError
from mvd_ds.files import written_aside
from mvd_ds.models.formats.describe import Network
from mvd_ds.models.formats.huggingface import TORCH_EPS
from mvd_ds.models.formats.reading import shorten, table_rows
from mvd_ds.models.formats.rules import Layout

#: timm's networks by (width, depth, heads, patch).
TIMM_NAMES = {
    (192, 12, 3, 16): "vit_tiny_patch16_224",
    (384, 12, 6, 16): "vit_small_patch16_224",
    (768, 12, 12, 16): "vit_base_patch16_224",
    (1024, 24, 16, 16): "vit_large_patch16_224",
    (1280, 32, 16, 14): "vit_huge_patch14_224",
}
#: Reasons why a layout cannot hold a setting.
REASONS = {
    "position": "that format has no place for a position table, its readers compute their own",
    "kind": "that format is for the other kind of encoder",
    "qkv_bias": "that format has no place for these biases",
    "final_norm": "that format says otherwise about the norm after the last block",
    "cls_token": "that format says otherwise about the class token",
}
OTHER_REASON = "that format has no place for another"


def to_layout(layout: Layout, state: Mapping[str, Tensor], network: Network, origin: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under the names of a layout, with position tables, and our names that were left out.

    Args:
        layout: the layout.
        state: state dict of a model here.
        network: the model that it is of.
        origin: names the source in messages.

    Raises:
        ConfigError: if the layout cannot hold this model; every reason is named.
    """
    left_out: list[str] = []
    if layout.model == "encoder":
        left_out = [name for name in state if not name.startswith("encoder.")]
        state = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
    _require_place(layout, network, origin)
    tensors, homeless = layout.rename({name: tensor for name, tensor in state.items() if ".position." not in name})
    if homeless:
        raise ConfigError(f"{origin}: '{layout.name}' has no place for {len(homeless)} tensors: {shorten(homeless)}")
    for table in layout.tables:
        norm = state.get(f"{table.prefix}patch_embed.bias", state.get(f"{table.prefix}mask_token.weight"))
        learned = state.get(f"{table.prefix}position.table")
        if learned is not None:
            rows = learned if not table.has_cls else torch.cat((state[f"{table.prefix}position.cls"], learned))
            tensors[table.theirs] = rows.unsqueeze(0)
        elif table.is_written and norm is not None:
            tensors[table.theirs] = torch.from_numpy(table_rows(table, network.grid, norm.shape[-1])).float().unsqueeze(0)
    return tensors, left_out


def _require_place(layout: Layout, network: Network, origin: str) -> None:
    wrong = []
    for key, value in layout.implied.items():
        have = getattr(network.encoder, key)
        if key == "position" and have == "learned" and layout.tables:
            continue
        if have != value:
            wrong.append(f"{key} is {have} and would have to be {value} ({REASONS.get(key, OTHER_REASON)})")
    if wrong:
        raise ConfigError(f"{origin}: '{layout.name}' cannot hold this model: {'; '.join(wrong)}")


def write_pickled(path: Path, tensors: dict[str, Tensor], wrappers: tuple[str, ...] = ("model",), prefix: str = "") -> None:
    """Write ``{"model": tensors}`` as published PyTorch files are, aside, then renamed.

    Args:
        path: the file.
        tensors: by name.
        wrappers: keys under each of which the tensors are found.
        prefix: put before every name.

    Raises:
        ConfigError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            # Clones: a view would take its whole storage into the file.
            held = {prefix + name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
            torch.save(dict.fromkeys(wrappers, held), aside)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from None


def hugging_face_config(layout: Layout, network: Network) -> tuple[dict[str, Any], list[str]]:
    """Return ``config.json`` of a VideoMAE or V-JEPA 2 folder, and what its readers will compute otherwise."""
    if layout.name == "hf_vjepa2":
        return _vjepa2_config(network), ["its readers draw a predictor of their own: VJEPA2Model with skip_predictor=True"]
    encoder, decoder = network.encoder, network.decoder
    hidden = int(encoder.embed_dim * encoder.mlp_ratio)
    config: dict[str, Any] = {
        "model_type": "videomae",
        "architectures": [layout.title.removeprefix("Hugging Face ")],
        "image_size": network.clip["size_px"],
        "num_frames": network.clip["frames"],
        "patch_size": encoder.patch_px,
        "tubelet_size": encoder.tubelet_frames,
        "num_channels": 3,
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": encoder.norm_eps,
        "qkv_bias": True,
        "use_mean_pooling": not encoder.final_norm,
    }
    notes = []
    if decoder is not None and layout.model == "predictor":
        width = decoder.embed_dim or encoder.embed_dim
        config |= {
            "decoder_hidden_size": width,
            "decoder_num_hidden_layers": decoder.depth,
            "decoder_num_attention_heads": decoder.num_heads or encoder.num_heads,
            "decoder_intermediate_size": int(width * decoder.mlp_ratio),
        }
        notes += _eps_note("the decoder's last norm", decoder.norm_eps or encoder.norm_eps)
    if network.classifier is not None:
        names = {str(index): f"LABEL_{index}" for index in range(network.classifier["classes"])}
        config |= {"id2label": names, "label2id": {name: int(index) for index, name in names.items()}}
        notes += _eps_note("the norm of the pooled token", network.classifier["norm_eps"] or encoder.norm_eps)
    return config, notes


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


def _eps_note(what: str, eps: float) -> list[str]:
    if eps == TORCH_EPS:
        return []
    return [f"transformers computes {what} with epsilon {TORCH_EPS:g}; this model has {eps:g}"]


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
