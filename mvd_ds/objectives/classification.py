"""Soft targets of mixed clips, the loss against them, and against a teacher's logits. All in fp32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def mix_clips(clip: Tensor, partner: Tensor, own_share: Tensor, box: Tensor) -> Tensor:
    """Return every clip with its partner blended or cut in.

    Args:
        clip: (B, C, T, H, W), float.
        partner: int64 (B,).
        own_share: (B,), share of the clip's own pixels where they are blended; 1 leaves it as it is.
        box: int64 (B, 6), first and last + 1 frame, row and column that come from the partner; all 0: blended.

    Returns:
        (B, C, T, H, W).
    """
    inside = torch.ones((len(clip), 1, *clip.shape[2:]), dtype=torch.bool, device=clip.device)
    for axis in range(3):
        place = torch.arange(clip.shape[2 + axis], device=clip.device)
        within = (place >= box[:, 2 * axis, None]) & (place < box[:, 2 * axis + 1, None])
        inside &= within.view(len(clip), 1, *(-1 if other == axis else 1 for other in range(3)))
    is_cut = (box != 0).any(dim=1).view(-1, 1, 1, 1, 1)
    share = own_share.to(clip.dtype).view(-1, 1, 1, 1, 1)
    own = torch.where(is_cut, (~inside).to(clip.dtype), share)
    return torch.lerp(clip[partner], clip, own)


def soft_targets(label: Tensor, partner: Tensor, own_share: Tensor, classes: int, smoothing: float) -> Tensor:
    """Return probabilities fp32 (B, classes): the own and the partner's class by their shares, smoothed over all.

    Source: timm's ``mixup_target``, used by MVD and VideoMAE.
    """
    single = functional.one_hot(label, classes).float() * (1 - smoothing) + smoothing / classes
    share = own_share.float()[:, None]
    return share * single + (1 - share) * single[partner]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over clips of -sum target * log softmax(logits). Source: timm, ``SoftTargetCrossEntropy``."""
    return -(target * functional.log_softmax(logits.float(), dim=-1)).sum(dim=-1).mean()


def logit_distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean over clips of T^2 * KL(softmax(teacher / T) || softmax(logits / T)). Source: Hinton et al. 2015."""
    student = functional.log_softmax(logits.float() / temperature, dim=-1)
    wanted = functional.log_softmax(teacher.detach().float() / temperature, dim=-1)
    return temperature**2 * functional.kl_div(student, wanted, reduction="batchmean", log_target=True)
