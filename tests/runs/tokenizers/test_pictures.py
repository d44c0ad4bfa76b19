"""Pictures of codes: the patch of a token is in the middle of its cell, framed, with what is around it."""

from __future__ import annotations

import numpy as np
import torch

from mvd_ds.evaluation.sheets import PAPER
from mvd_ds.runs.tokenizers.pictures import OWN, framed, nearest_places, shown_codes, surroundings


def test_a_patch_is_cut_with_its_neighbours_and_paper_outside_of_the_picture() -> None:
    """Each patch of four frames of 3 x 3 patches has a value of its own, that of its token."""
    tokens = torch.arange(18).view(2, 3, 3)
    clip = tokens.repeat_interleave(2, 0).repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8).expand(3, -1, -1, -1)
    cell = surroundings(clip, 13, (2, 3, 3), 2)
    assert cell[4:8, 4:8].min() == cell[4:8, 4:8].max() == 13 and cell[0, 0, 0] == 9 and cell[11, 11, 0] == 17
    corner = surroundings(clip, 9, (2, 3, 3), 2)
    assert (corner[:4] == PAPER[0]).all() and (corner[:, :4] == PAPER[0]).all() and corner[4, 4, 0] == 9
    lined = framed(cell, OWN)
    assert np.array_equal(lined[4:8, 4:8], cell[4:8, 4:8]), "the patch itself is whole"
    assert tuple(lined[3, 3]) == tuple(lined[8, 8]) == tuple(lined[3, 8]) == OWN and (lined == cell).all(-1).sum() == 144 - 20


def test_codes_are_shown_from_the_most_used_one_to_the_least_with_a_place_of_each_clip() -> None:
    codes = shown_codes(torch.arange(100.0))
    assert (len(codes), int(codes[0]), int(codes[-1])) == (12, 99, 0)
    encoded = torch.tensor([[[0.0], [5.0]], [[9.0], [4.0]], [[7.0], [6.0]]])
    assert nearest_places(encoded, torch.tensor([[5.0]])) == [[(0, 1), (1, 1), (2, 1)]]
