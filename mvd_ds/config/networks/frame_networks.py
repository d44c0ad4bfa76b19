"""The sizes of image networks of our own families that teach: ``network: FAMILY:NAME``."""

from __future__ import annotations

from typing import Any


def _dhvt(width: int, heads: int, patch: int) -> dict[str, Any]:
    return {"embed_dim": width, "depth": 12, "num_heads": heads, "patch_px": patch, "cls_token": True}


def _patchconv(width: int, depth: int) -> dict[str, Any]:
    return {"embed_dim": width, "depth": depth, "num_heads": 1, "patch_px": 16}


FRAME_NETWORKS: dict[str, dict[str, dict[str, Any]]] = {
    "dhvt": {
        "tiny_cifar_patch4": _dhvt(192, 4, 4),
        "small_cifar_patch4": _dhvt(384, 8, 4),
        "tiny_cifar_patch2": _dhvt(192, 4, 2),
        "small_cifar_patch2": _dhvt(384, 8, 2),
        "tiny_domain": _dhvt(192, 4, 16),
        "small_domain": _dhvt(384, 6, 16),
        "tiny_imagenet": _dhvt(192, 3, 16),
        "small_imagenet": _dhvt(384, 6, 16),
    },
    "patchconv": {
        "s60": _patchconv(384, 60),
        "s120": _patchconv(384, 120),
        "b60": _patchconv(768, 60),
        "b120": _patchconv(768, 120),
        "l60": _patchconv(1024, 60),
        "l120": _patchconv(1024, 120),
    },
    # A code is the largest of 8,192 logits; pixels are mapped to 0.8 x + 0.1.
    "dvae": {
        "dalle": {
            "embed_dim": 8192,
            "depth": 1,
            "num_heads": 1,
            "patch_px": 8,
            "input_mean": [-0.125] * 3,
            "input_std": [1.25] * 3,
        }
    },
}
"""Sizes by family and name. Source: DHVT, Lu et al. 2022; PatchConvNet, Touvron et al. 2021 (arXiv 2112.13692);
DALL-E's discrete VAE, Ramesh et al. 2021 (arXiv 2102.12092)."""


def with_frame_sizes(values: dict[str, Any], family: str, name: str) -> dict[str, Any]:
    """Return the settings of a teacher with the sizes of its network filled in.

    Raises:
        ValueError: if there is no such network, or a size is stated that it has not.
    """
    sizes = FRAME_NETWORKS[family].get(name)
    if sizes is None:
        raise ValueError(f"network '{family}:{name}' is not known; names are {', '.join(FRAME_NETWORKS[family])}")
    implied = {"kind": "image", "tubelet_frames": 1, "position": "learned", **sizes}
    wrong = [f"{key} {values[key]}" for key, value in implied.items() if values.get(key, value) != value]
    if wrong or values.get("size"):
        raise ValueError(f"network {family}:{name} has sizes of its own, not {', '.join(wrong) or 'a size'}: remove it")
    return {**implied, **values}
