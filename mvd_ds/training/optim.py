"""AdamW parameter groups, as published."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mvd_ds.config import OptimizerSettings

#: Parts of an encoder before its first block.
EMBEDDINGS = ("patch_embed.", "cls_token.", "registers.", "position.")
#: Learned tokens that are not decayed.
UNDECAYED = ("cls_token", "registers.")


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Return AdamW groups: ``decay`` for matrices and mask tokens, ``no_decay`` for biases, norms, class token and registers.

    With ``layer_decay`` below 1 there are two for every layer of the encoder, each with its ``lr_scale``.

    Source: MVD 1.5; its mask tokens are decayed because their names are missing from its exception list. The class
    token is excepted there.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_vector = parameter.ndim <= 1 or name.endswith("bias") or any(token in name for token in UNDECAYED)
        kind, weight_decay = ("no_decay", 0.0) if is_vector else ("decay", settings.weight_decay)
        scale = layer_scale(name, _depth(model), settings.layer_decay)
        key = kind if settings.layer_decay == 1.0 else f"{kind}_{scale:.4g}"
        group = groups.setdefault(key, {"name": key, "weight_decay": weight_decay, "lr_scale": scale, "params": []})
        group["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: (group["lr_scale"], group["name"]))


def layer_scale(name: str, depth: int, decay: float) -> float:
    """Return the factor of the learning rate of ``name``: decay^(depth + 1 - id), id 0 for embeddings, i + 1 for block i.

    Parameters outside the encoder, and its final norm, have 1. Source: BEiT; MVD 2.1.
    """
    inside = name.removeprefix("encoder.")
    if inside == name:
        return 1.0
    if inside.startswith(EMBEDDINGS):
        return decay ** (depth + 1)
    if inside.startswith("blocks."):
        return decay ** (depth - int(inside.split(".")[1]))
    return 1.0


def _depth(model: nn.Module) -> int:
    return len(getattr(getattr(model, "encoder", None), "blocks", ()))


def build_optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Build torch's AdamW, which needs no compiler. Fused, it heeds an ``UpdateGate`` on GPUs and CPUs."""
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)


def group_rows(groups: list[dict[str, Any]]) -> list[dict[str, str | float]]:
    """Return name, tensors, parameters, weight decay and factor of the learning rate of every group."""
    return [
        {
            "name": group["name"],
            "tensors": len(group["params"]),
            "parameters": sum(parameter.numel() for parameter in group["params"]),
            "weight_decay": group["weight_decay"],
            "lr_scale": group["lr_scale"],
        }
        for group in groups
    ]


def describe_groups(groups: list[dict[str, Any]]) -> str:
    """Return in a phrase what decays and how the rates of layers differ; a run's ``attempts/`` have every group."""
    decayed = sum(parameter.numel() for group in groups if group["weight_decay"] for parameter in group["params"])
    rates = [group["lr_scale"] for group in groups]
    layers = f", rates of layers x {min(rates):.3g} to {max(rates):.3g}" if min(rates) < max(rates) else ""
    return f"{decayed:,} with weight decay{layers}, in {len(groups)} groups"
