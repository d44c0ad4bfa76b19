"""The attention that a teacher gives beside its targets, against the whole matrix of the same network."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.teachers import build_teacher, resize_grid
from mvd_ds.models.vit import VisionTransformer

CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(3))


def whole_encoder(recipe: TrainingRecipe, name: str) -> VisionTransformer:
    """The same random network with all of its blocks."""
    settings, clip = recipe.teachers[name], recipe.data.clip
    grid = settings.grid(1 if settings.kind == "image" else clip.frames, settings.input_px or clip.size_px)
    return initialise(VisionTransformer(settings, grid), recipe.run.seed, prefix=f"teachers.{name}").eval()


def eager_rows(encoder: VisionTransformer, clip: torch.Tensor, block: int) -> torch.Tensor:
    """Attention matrices (B, N, N) of a block, the mean over heads, of its input computed in the usual way."""
    tokens = encoder.embed(clip)
    for before in encoder.blocks[:block]:
        tokens = before(tokens)
    layer = encoder.blocks[block]
    query, key, _ = layer.attention.qkv(layer.norm_attention(tokens)).unflatten(-1, (3, layer.attention.heads, -1)).unbind(2)
    scores = torch.einsum("bnhd,bmhd->bhnm", query.double(), key.double()) * query.shape[-1] ** -0.5
    return scores.softmax(dim=-1).mean(dim=1)


@pytest.mark.parametrize(("blocks", "numbers"), [([-1], [1]), ([0], [0]), ("all", [0, 1])])
def test_without_a_class_token_it_is_the_mean_attention_received(recipe, blocks, numbers):
    chosen = recipe(masking={"kind": "attention", "pick": "multinomial", "teacher": "video", "blocks": blocks})
    given = build_teacher("video", chosen.teachers["video"], chosen)(CLIP)
    rows = [eager_rows(whole_encoder(chosen, "video"), CLIP, number).mean(dim=1) for number in numbers]
    assert given["attention"].shape == (2, 32)
    assert (given["attention"] - torch.stack(rows).mean(dim=0)).abs().max() < 1e-6


@pytest.mark.parametrize(("blocks", "numbers"), [([-1], [2]), ([0, 1], [0, 1])])
def test_with_a_class_token_it_is_its_row_in_every_frame(recipe, blocks, numbers):
    chosen = recipe(masking={"kind": "attention", "pick": "multinomial", "teacher": "image", "blocks": blocks})
    given = build_teacher("image", chosen.teachers["image"], chosen)(CLIP)
    encoder, slots = whole_encoder(chosen, "image"), []
    for slot in range(2):
        rows = [eager_rows(encoder, CLIP[:, :, 2 * slot].unsqueeze(2), number)[:, 0, 1:] for number in numbers]
        slots.append(torch.stack(rows).mean(dim=0))
    assert (given["attention"] - torch.cat(slots, dim=1)).abs().max() < 1e-6


@pytest.mark.parametrize("chunk", [None, 1])
def test_targets_are_what_they_are_without_it(recipe, chunk, relative_error):
    plain, chosen = (
        recipe(),
        recipe(
            masking={"kind": "attention", "pick": "multinomial", "teacher": "video"}, teachers={"video": {"chunk_clips": chunk}}
        ),
    )
    given = build_teacher("video", chosen.teachers["video"], chosen)(CLIP)
    assert relative_error(given["video"], build_teacher("video", plain.teachers["video"], plain)(CLIP)) < 1e-6
    other = build_teacher("image", chosen.teachers["image"], chosen)(CLIP)
    assert torch.is_tensor(other), "a teacher that is not asked gives nothing more"


def test_it_is_resized_to_the_students_grid(recipe):
    masking = {"kind": "attention", "pick": "multinomial", "teacher": "image"}
    chosen = recipe(masking=masking, teachers={"image": {"input_px": 24, "resize": "bilinear"}})
    clip = torch.randn(2, 3, 4, 24, 24, generator=torch.Generator().manual_seed(5))
    given = build_teacher("image", chosen.teachers["image"], chosen)(clip)
    rows = [eager_rows(whole_encoder(chosen, "image"), clip[:, :, 2 * slot].unsqueeze(2), 2)[:, 0, 1:] for slot in range(2)]
    expected = resize_grid(torch.cat(rows, dim=1)[..., None].float(), (2, 3, 3), (2, 4, 4))[..., 0]
    assert (given["attention"] - expected).abs().max() < 1e-6


def test_a_network_that_gives_none_is_refused_in_one_line(recipe):
    teacher = {"network": "dhvt:tiny_cifar_patch4", "weights": "random", "input_px": 32, "resize": "bilinear"}
    chosen = recipe(masking={"kind": "attention", "pick": "multinomial", "teacher": "look"}, teachers={"look": teacher})
    with pytest.raises(
        ConfigError, match=r"masking\.teacher look: dhvt:tiny_cifar_patch4 does not give its attention"
    ) as refused:
        build_teacher("look", chosen.teachers["look"], chosen)
    assert "\n" not in str(refused.value)
