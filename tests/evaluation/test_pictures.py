"""Pictures against formulas written another way: loops over tokens, numpy's own linear algebra, pixels counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mvd_ds.evaluation.hooks import AttentionOf, LayerSimilarity, spread_heads
from mvd_ds.evaluation.pictures import (
    HIDDEN,
    UNKNOWN,
    ColourSpace,
    across_frames,
    clip_film,
    frame_similarity,
    heat_film,
    hidden_film,
    placed,
    received_attention,
    spread,
)
from mvd_ds.evaluation.sheets import CAPTION_PX, GAP_PX, Observed, clip_sheets, joined, moving, similarity_sheet, still

GRID = (2, 2, 3)
SIZE = 12


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_film_has_the_first_frame_of_every_slot() -> None:
    clip = torch.arange(3 * 4 * SIZE * SIZE).remainder(251).to(torch.uint8).view(3, 4, SIZE, SIZE)
    film = clip_film(clip, 2)
    assert film.shape == (2, SIZE, SIZE, 3)
    for slot in range(2):
        assert (film[slot] == clip[:, 2 * slot].permute(1, 2, 0).numpy()).all()


def test_every_pixel_has_the_value_of_its_token() -> None:
    found = spread(np.arange(12), GRID, SIZE)
    for t in range(2):
        for y in range(SIZE):
            for x in range(SIZE):
                assert found[t, y, x] == t * 6 + y // 6 * 3 + x // 4


def test_hidden_patches_are_dark_and_others_untouched() -> None:
    film = np.full((2, SIZE, SIZE, 3), 200, np.uint8)
    shown = hidden_film(film, torch.tensor([1, 6]), GRID)
    assert (shown[0, :6, 4:8] == 200 * HIDDEN).all() and (shown[1, :6, :4] == 200 * HIDDEN).all()
    assert (shown == 200).sum() == 3 * (2 * SIZE * SIZE - 2 * 24)


def test_heat_grows_with_the_value_and_is_grey_where_nothing_is_known() -> None:
    values = placed(torch.tensor([0.0, 1.0, 2.0, 9.0]), torch.tensor([0, 1, 2, 3]), 12)
    film = heat_film(values, GRID, SIZE, high=2.0)
    brightness = [int(film[0, y, x].sum()) for y, x in ((0, 0), (0, 4), (0, 8), (6, 0))]
    assert brightness[0] < brightness[1] < brightness[2] == brightness[3]
    assert (film[1] == UNKNOWN).all()


def test_colours_are_principal_components_of_the_teacher_for_both() -> None:
    teacher, student = drawn(1, 400, 8) * torch.tensor([9.0, 5, 3, 1, 1, 1, 1, 1]), drawn(20, 8, seed=1)
    tokens = teacher[0].numpy()
    mean = tokens.mean(0)
    axes = np.linalg.svd(tokens - mean, full_matrices=False)[2][:3]
    inside = (tokens - mean) @ axes.T
    low, high = np.percentile(inside, 1, axis=0), np.percentile(inside, 99, axis=0)
    wanted = np.clip(((student.numpy() - mean) @ axes.T - low) / (high - low), 0, 1)
    found = ColourSpace(teacher).colours(student.numpy()) / 255
    for axis in range(3):  # the sign of a component is free
        direct, turned = np.abs(found[:, axis] - wanted[:, axis]).max(), 0.0
        low_, high_ = np.percentile(-inside[:, axis], (1, 99))
        other = np.clip((-((student.numpy() - mean) @ axes[axis]) - low_) / (high_ - low_), 0, 1)
        turned = np.abs(found[:, axis] - other).max()
        assert min(direct, turned) < 0.01


def test_unknown_and_narrow_features_have_colours() -> None:
    features = drawn(12, 2).numpy()
    features[3] = np.nan
    colours = ColourSpace(drawn(1, 12, 2)).colours(features)
    assert (colours[3] == UNKNOWN).all() and (colours[:, 2] == UNKNOWN).all()
    assert len(np.unique(colours[:, 0])) > 5


@pytest.mark.parametrize("skipped", [0, 1])
def test_attention_that_tokens_receive(skipped: int) -> None:
    qkv = drawn(2, 5 + skipped, 3, 4, 6)
    found = received_attention(qkv, [1, 3], skipped)
    for clip in range(2):
        for place, head in enumerate((1, 3)):
            rows = []
            for query in range(1 if skipped else 5):
                products = [float(qkv[clip, query, 0, head] @ qkv[clip, key, 1, head]) for key in range(5 + skipped)]
                powers = np.exp(np.array(products) / 6**0.5)
                rows.append(powers / powers.sum())
            assert found[clip, place].numpy() == pytest.approx(np.mean(rows, axis=0)[skipped:], rel=1e-5)


def test_similarity_across_frames() -> None:
    tokens = drawn(2, 3, 4, 5)
    found = frame_similarity(tokens)
    for i in range(3):
        for j in range(3):
            pairs = [float(a @ b / a.norm() / b.norm()) for clip in tokens for a, b in zip(clip[i], clip[j], strict=True)]
            assert float(found[i, j]) == pytest.approx(np.mean(pairs), abs=1e-6)
    off = [float(found[i, j]) for i in range(3) for j in range(3) if i != j]
    assert across_frames(found) == pytest.approx(np.mean(off), abs=1e-6)
    assert across_frames(frame_similarity(tokens[:, :1].expand(-1, 3, -1, -1))) == pytest.approx(1.0, abs=1e-6)


def test_layers_are_heard_in_order_in_parts_and_frame_by_frame() -> None:
    blocks = nn.ModuleList([nn.Identity(), nn.LayerNorm(5, elementwise_affine=False)])
    tokens = drawn(4, 1 + 6, 5)
    with LayerSimilarity(blocks, slots=3, skipped=1) as whole:
        for block in blocks:
            tokens = block(tokens)
    grid = drawn(4, 7, 5)[:, 1:].unflatten(1, (3, 2))
    assert torch.allclose(whole.layers[0], frame_similarity(grid), atol=1e-6)
    assert not torch.allclose(whole.layers[0], whole.layers[1])
    with LayerSimilarity(blocks[:1], slots=3, skipped=1, frame_by_frame=True) as parts:
        frames = torch.cat((torch.zeros(12, 1, 5), grid.flatten(0, 1)), dim=1)
        blocks[0](frames[:3]), blocks[0](frames[3:])
    assert torch.allclose(parts.layers[0], whole.layers[0], atol=1e-6)
    blocks[0](tokens[:1])
    assert len(blocks[0]._forward_hooks) == 0


def test_attention_is_heard_by_head() -> None:
    projection = nn.Linear(8, 24)
    tokens = drawn(2, 6, 8)
    with AttentionOf(projection, heads=4, chosen=[0, 2]) as kept:
        qkv = projection(tokens)
    wanted = received_attention(qkv.unflatten(-1, (3, 4, 2)), [0, 2], 0)
    assert list(kept.received) == [0, 2] and torch.equal(kept.received[2], wanted[:, 1])
    assert spread_heads(12) == [0, 4, 8] and spread_heads(2) == [0, 1]


def seen(clips: int = 2) -> Observed:
    masked = torch.tensor([[0, 1, 2, 6, 7, 8]]).repeat(clips, 1)
    return Observed(
        clip=torch.randint(0, 255, (clips, 3, 4, SIZE, SIZE), generator=torch.Generator().manual_seed(1)).to(torch.uint8),
        grid=GRID,
        masked=masked,
        hidden=masked,
        losses={"image": drawn(clips, 6).abs()},
        targets={"image": drawn(clips, 12, 8)},
        predictions={"image": drawn(clips, 6, 8), "video": drawn(clips, 6, 5)},
        attention={3: drawn(clips, 12).softmax(-1)},
    )


def test_a_perfect_student_has_its_teachers_colours() -> None:
    perfect = seen()
    perfect.predictions["image"] = perfect.targets["image"].gather(1, perfect.masked[:, :, None].expand(-1, -1, 8))
    for row, sheet in enumerate(clip_sheets(perfect)):
        teacher, student = sheet["image: the teacher's features"], sheet["image: the student's prediction"]
        where = spread(np.isin(np.arange(12), perfect.masked[row].numpy()), GRID, SIZE)
        assert (teacher[where] == student[where]).all() and (student[~where] == UNKNOWN).all()


def test_sheets_as_still_and_moving_images() -> None:
    sheets = clip_sheets(seen())
    names = [name.partition(", 0 to")[0] for name in sheets[0]]
    assert names == [
        "clip",
        "what the network sees",
        "image: loss per token",
        "image: the teacher's features",
        "image: the student's prediction",
        "video: the student's prediction",
        "attention of head 3",
    ]
    page = still(sheets[0], 48)
    assert page.dtype == np.uint8 and page.shape[0] == 7 * (CAPTION_PX + 48 + GAP_PX) + GAP_PX
    top = GAP_PX + CAPTION_PX
    enlarged = sheets[0]["clip"][1].repeat(4, axis=0).repeat(4, axis=1)
    assert (page[top : top + 48, 2 * GAP_PX + 48 : 2 * GAP_PX + 96] == enlarged).all()
    frames = moving(sheets[0], 48)
    assert len(frames) == 2 and all(side % 2 == 0 for side in frames[0].shape[:2])
    assert (frames[0] != frames[1]).any()
    assert joined(sheets)["clip"].shape[0] == 4


def test_similarity_sheet_needs_several_frames() -> None:
    layers = [torch.eye(3), torch.ones(3, 3)]
    ((name, film),) = similarity_sheet({"teacher": layers, "image": [torch.ones(1, 1)]}, 24).items()
    assert "mean 0.00 to 1.00" in name and film.shape == (2, 24, 24, 3)
    assert (film[1] == film[1, 0, 0]).all() and (film[0, 0, -1] != film[0, 0, 0]).any()
