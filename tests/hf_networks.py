"""Tiny networks of transformers in folders as it writes them, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

WIDTH = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {**WIDTH, "vocab_size": 20, "max_position_embeddings": 8}
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


class Case(NamedTuple):
    """A tiny network of transformers: its config, its class, the module inside that gives tokens, and its sizes."""

    config: Any
    kind: str
    inside: str
    prefix: int
    frames: int = 1
    side: int = 32
    inputs: str = "pixel_values"
    norm: str = "layernorm"


def _siglip2(**more: Any) -> Any:
    return transformers.Siglip2Config(text_config=TEXT, vision_config={**WIDTH, "patch_size": 8, "num_patches": 16, **more})


CASES = {
    "vjepa2": Case(
        transformers.VJEPA2Config(
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            mlp_ratio=2,
            patch_size=8,
            crop_size=32,
            frames_per_clip=8,
            pred_hidden_size=12,
            pred_num_hidden_layers=1,
            pred_num_attention_heads=2,
        ),
        "VJEPA2Model",
        "encoder",
        0,
        8,
        inputs="pixel_values_videos",
    ),
    "videomae": Case(
        transformers.VideoMAEConfig(
            **WIDTH,
            image_size=32,
            patch_size=8,
            num_frames=4,
            use_mean_pooling=False,
            decoder_hidden_size=12,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=24,
        ),
        "VideoMAEForPreTraining",
        "videomae",
        0,
        4,
    ),
    "videomae fine-tuned": Case(
        transformers.VideoMAEConfig(**WIDTH, image_size=32, patch_size=8, num_frames=4, use_mean_pooling=True, num_labels=3),
        "VideoMAEForVideoClassification",
        "videomae",
        0,
        4,
        norm="",
    ),
    "vit_mae": Case(
        transformers.ViTMAEConfig(
            **WIDTH,
            image_size=32,
            patch_size=8,
            decoder_hidden_size=12,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=24,
            mask_ratio=0.75,
        ),
        "ViTMAEForPreTraining",
        "vit",
        1,
    ),
    "dinov2_with_registers": Case(
        transformers.Dinov2WithRegistersConfig(**WIDTH, image_size=56, patch_size=8, num_register_tokens=4, use_swiglu_ffn=True),
        "Dinov2WithRegistersModel",
        "",
        5,
    ),
    "dinov3_vit": Case(
        transformers.DINOv3ViTConfig(**WIDTH, image_size=32, patch_size=8, num_register_tokens=2),
        "DINOv3ViTModel",
        "",
        3,
        norm="norm",
    ),
    "siglip": Case(
        transformers.SiglipConfig(text_config=TEXT, vision_config={**WIDTH, "patch_size": 8, "image_size": 32}),
        "SiglipModel",
        "vision_model",
        0,
        norm="post_layernorm",
    ),
    "siglip2": Case(_siglip2(), "Siglip2Model", "vision_model", 0, norm="post_layernorm"),
    "clip": Case(
        transformers.CLIPConfig(text_config=TEXT, vision_config={**WIDTH, "patch_size": 8, "image_size": 32}),
        "CLIPModel",
        "vision_model",
        1,
        norm="post_layernorm",
    ),
    "vit, in no row": Case(
        transformers.ViTConfig(**WIDTH, image_size=32, patch_size=8, num_labels=3), "ViTForImageClassification", "vit", 1
    ),
}


def write(case: Case, folder: Path, seed: int = 0) -> nn.Module:
    """Write a folder as transformers does, with weights large enough that every layer matters, and a processor."""
    torch.manual_seed(seed)
    model = getattr(transformers, case.kind)(case.config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN, "image_std": STD, "size": {"height": 32, "width": 32}})
    )
    return model
