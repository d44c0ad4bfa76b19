"""Learned positions on another grid."""

from __future__ import annotations

import pytest
import torch

import mvd_ds
import published
from mvd_ds.config import ConfigError
from mvd_ds.models.formats.learned_positions import resize_table


def learned_mae() -> dict[str, torch.Tensor]:
    state = published.mae(side=4)
    state["pos_embed"] = torch.randn(1, 17, 40, generator=published.normal(5))
    return state


def test_timm_resizes_alike():
    timm = pytest.importorskip("timm")
    table = torch.randn(16, 12)
    expected = timm.layers.resample_abs_pos_embed(table.unsqueeze(0), [7, 7], [4, 4], num_prefix_tokens=0)[0]
    torch.testing.assert_close(resize_table(table, (1, 4, 4), (1, 7, 7)), expected)


def test_time_is_linear():
    table = torch.arange(4.0).repeat_interleave(4)[:, None].expand(-1, 3)
    assert resize_table(table, (4, 2, 2), (2, 2, 2))[:, 0].unflatten(0, (2, 4)).mean(1).tolist() == [0.5, 2.5]


def test_a_file_is_resized_and_says_so():
    state = learned_mae()
    model, checkpoint = mvd_ds.open_model(state, encoder={"num_heads": 5}, clip={"frames": 1, "size_px": 48})
    assert model.grid == (1, 6, 6)
    assert torch.equal(model.position.table, resize_table(state["pos_embed"][0, 1:], (1, 4, 4), (1, 6, 6)))
    assert "encoder.position.table: learned positions on grid (1, 4, 4) resized to (1, 6, 6), bicubic" in checkpoint.notes
    model, checkpoint = mvd_ds.open_model(state, encoder={"num_heads": 5})
    assert model.grid == (1, 4, 4) and torch.equal(model.position.table, state["pos_embed"][0, 1:])


def test_a_table_of_no_grid_is_refused():
    state = learned_mae()
    state["pos_embed"] = torch.randn(1, 18, 40)
    with pytest.raises(ConfigError, match="has 17 rows, which is no grid that could be resized"):
        mvd_ds.open_model(state, encoder={"num_heads": 5})


def test_learned_positions_learn_and_are_seeded():
    settings = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8, "position": "learned", "cls_token": True}
    model = mvd_ds.build_student(settings, targets={"image": 8}, frames=4, size_px=16, seed=1)
    mask = torch.tensor([[True] * 5 + [False] * 3])
    model(torch.randn(1, 3, 4, 16, 16), mask)["image"].square().sum().backward()
    for part in (model.encoder, model.decoders["image"]):
        assert part.position.table.grad.abs().sum(1).gt(0).sum() == (3 if part is model.encoder else 8)
        assert part.position.cls.grad.abs().sum() > 0
    again = mvd_ds.build_student(settings, targets={"image": 8}, frames=4, size_px=16, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
