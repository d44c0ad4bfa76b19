"""Inputs of dense read-outs keep their places."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.evaluation.dense_inputs import input_width, pixel_tokens, readout_inputs


def test_tokens_of_a_moment_are_means_of_its_parts_side_by_side() -> None:
    tokens = torch.arange(2 * 3 * 4 * 4 * 5.0).reshape(2, 3, 4, 4, 5)
    assert torch.equal(readout_inputs(tokens, False, 2)[1, 16 + 4 + 2], tokens[1, 1, 1, 2])
    parts = readout_inputs(tokens, True, 2)
    assert parts.shape == (2, 3, 20) and input_width(5, (3, 4, 4), True, 2) == 20
    torch.testing.assert_close(parts[1, 2, 5:10], tokens[1, 2, :2, 2:].mean((0, 1)))
    torch.testing.assert_close(readout_inputs(tokens, True, 1), tokens.mean((2, 3)))
    assert readout_inputs(tokens, True, 9).shape[-1] == input_width(5, (3, 4, 4), True, 9) == 16 * 5


@pytest.mark.parametrize("side", [32, 20])
def test_pixels_of_a_place_are_there(side: int) -> None:
    clip = torch.zeros((1, 3, 4, side, side), dtype=torch.uint8)
    clip[0, 1, 3, side // 2 :, : side // 4] = 255
    tokens = pixel_tokens(clip, (2, 2, 4))
    assert tokens.shape == (1, 2, 2, 4, 2 * 3 * 16)
    lit = tokens[0].sum(-1).nonzero().tolist()
    assert lit == [[1, 1, 0]] and tokens[0, 1, 1, 0].sum() == 16
