"""The attention that tokens of timm's transformers get, against the matrix of timm's own eager attention."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.config import ATTENTION, ConfigError, TeacherSettings
from mvd_ds.models.networks.timm_attention import is_tappable
from mvd_ds.models.teachers import plan_lone_teacher

#: name, side of a frame, width, patch, tokens before the patches.
NETWORKS = [
    ("vit_tiny_patch16_224", 64, 192, 16, 1),
    ("vit_small_patch14_reg4_dinov2", 56, 384, 14, 5),
    ("vit_base_patch16_siglip_224", 32, 768, 16, 0),
]


def looking(name: str, side: int, width: int, patch: int, blocks: tuple[int, ...] = (-1, 3)):
    settings = TeacherSettings.model_validate(
        {"network": f"timm:{name}", "embed_dim": width, "patch_px": patch, "input_px": side, "weights": "random"}
    )
    settings.give_attention(blocks)
    return plan_lone_teacher("look", settings, 2, side, (1, side // patch, side // patch), 2)


@pytest.mark.parametrize(("name", "side", "width", "patch", "prefix"), NETWORKS, ids=[row[0] for row in NETWORKS])
@torch.no_grad()
def test_rows_are_those_of_the_whole_matrix(name, side, width, patch, prefix):
    teacher, clip = looking(name, side, width, patch).build(), torch.randn(2, 3, 2, side, side)
    given = teacher(clip)
    network, matrices = teacher.network.module.network, {}
    for block in (3, 11):
        attention = network.blocks[block].attn
        attention.fused_attn = False
        attention.attn_drop.register_forward_hook(lambda module, inputs, output, block=block: matrices.update({block: output}))
    again = teacher(clip)
    rows = [
        matrix.mean(dim=1)[:, 0] if network.cls_token is not None else matrix.mean(dim=(1, 2)) for matrix in matrices.values()
    ]
    expected = torch.stack(rows).mean(dim=0)[:, prefix:]
    assert given[ATTENTION].shape == (2, (side // patch) ** 2)
    assert (given[ATTENTION] - expected).abs().max() < 1e-6
    assert (given[ATTENTION] - again[ATTENTION]).abs().max() < 1e-6 and not teacher.network.module.taps.seen


def test_others_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"teachers\.look: masking\.kind attention reads .* eva02_tiny_patch14_224 is not"):
        looking("eva02_tiny_patch14_224", 56, 192, 14)
    assert not is_tappable(torch.nn.Linear(2, 2))
