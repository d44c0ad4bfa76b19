"""AdamW parameter groups, as published."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mvd_ds.config import OptimizerSettings


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Two AdamW groups: ``decay`` for matrices and mask tokens, ``no_decay`` for biases, norms and the class token.

    Source: MVD 1.5; its mask tokens are decayed because their names are missing from its exception list. The class
    token is excepted there.
    """
    decay, no_decay = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_vector = parameter.ndim <= 1 or name.endswith("bias") or "cls_token" in name
        (no_decay if is_vector else decay).append((name, parameter))
    groups = []
    for name, weight_decay, members in (("decay", settings.weight_decay, decay), ("no_decay", 0.0, no_decay)):
        parameters = [parameter for _, parameter in members]
        if parameters:
            groups.append({"name": name, "weight_decay": weight_decay, "params": parameters})
    return groups


def build_optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """torch's AdamW: needs no compiler, unlike DeepSpeed's, and is fused where the device has it."""
    fused = torch.cuda.is_available()
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=fused)


def describe_groups(groups: list[dict[str, Any]]) -> str:
    """A table of the groups: name, tensors, parameters, weight decay."""
    lines = [f"{'group':<10}{'tensors':>9}{'parameters':>14}{'weight decay':>14}"]
    for group in groups:
        count = sum(parameter.numel() for parameter in group["params"])
        lines.append(f"{group['name']:<10}{len(group['params']):>9}{count:>14,}{group['weight_decay']:>14g}")
    return "\n".join(lines)
