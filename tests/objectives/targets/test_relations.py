"""Relations of a teacher as a target: zero for the teacher itself, other heads and depths, and what cannot be."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import mvd_ds
from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.models.teachers import build_teacher
from mvd_ds.objectives.relations import packed_relations
from mvd_ds.objectives.targets import Places, build_targets, gather_masked
from mvd_ds.runs.student import recipe_flops
from mvd_ds.tools.plan.memory import activation_bytes
from mvd_ds.tools.plan.sizes import recipe_sizes

SMALL = ["size=null", "embed_dim=48", "depth=3", "num_heads=4", "patch_px=16", "weights=random"]


def recipe(*overrides: str) -> TrainingRecipe:
    """A student of width 64 in 2 heads and a video teacher of width 48 in 4 heads, 32 tokens."""
    clip = ["data.clip.frames=4", "data.clip.size_px=64", "model.size=null", "model.embed_dim=64", "model.depth=2"]
    student = ["model.num_heads=2", "decoder.embed_dim=32", "decoder.num_heads=2", "teachers.image.input_px=64"]
    teachers = [f"teachers.{name}.{setting}" for name in ("image", "video") for setting in SMALL]
    found = load_recipe("mvd_base_from_base", [*clip, *student, *teachers, *overrides])
    assert isinstance(found, TrainingRecipe)
    return found


def attention_of(tokens: Tensor, block: torch.nn.Module, heads: int) -> tuple[Tensor, Tensor]:
    """softmax(QK^T / sqrt d) and softmax(VV^T / sqrt d), (B, heads, N, N), of tokens before a block, written out."""
    packed = F.linear(block.norm_attention(tokens), block.attention.qkv.weight, block.attention.qkv.packed_bias())
    query, key, value = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in packed.chunk(3, dim=-1))
    scale = query.shape[-1] ** 0.5
    return (query @ key.mT / scale).softmax(-1), (value @ value.mT / scale).softmax(-1)


@torch.no_grad()
def test_the_teacher_gives_the_relations_of_its_attention_and_a_student_of_its_weights_has_none_to_learn() -> None:
    """Everything is visible. A student whose blocks are the teacher's first two, and whose head is the third's projection."""
    settings = recipe("teachers.video.target.kind=relations", "teachers.video.target.blocks=[2]", "model.embed_dim=48")
    teacher, target = build_teacher("video", settings.teachers["video"], settings), build_targets(settings)["video"]
    clip = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    source = teacher(clip)
    assert source.shape == (2, 32, 3 * 48) and target.head.width == 3 * 48
    blocks = teacher.encoder.blocks
    tokens = blocks[1](blocks[0](teacher.encoder.embed(clip)))
    for mine, expected in zip(softened(target, source), attention_of(tokens, blocks[2], 4), strict=True):
        torch.testing.assert_close(mine, expected)
    shape = {"embed_dim": 48, "depth": 2, "num_heads": 4, "patch_px": 16, "position": settings.teachers["video"].position}
    student = mvd_ds.build_encoder(shape, frames=4, size_px=64)
    student.blocks, student.norm = copy.deepcopy(blocks[:2]), copy.deepcopy(blocks[2].norm_attention)
    student.patch_embed = copy.deepcopy(teacher.encoder.patch_embed)
    prediction = blocks[2].attention.qkv(student(clip))
    assert float(target.compare(prediction, target(source))) == 0.0
    assert float(target.compare(prediction + 0.1 * torch.randn_like(prediction), target(source))) > 1e-4


def softened(target: torch.nn.Module, packed: Tensor) -> list[Tensor]:
    relations = packed_relations(packed, target.heads)
    return [(left @ right.mT / left.shape[-1] ** 0.5).softmax(-1) for left, right in relations.values()]


def test_relations_among_the_predicted_tokens_are_those_of_the_whole_renormalised() -> None:
    """The softmax over a set S is the softmax over all tokens, restricted to S and divided by its sum."""
    settings = recipe("teachers.video.target.kind=relations", "teachers.video.target.relations=[query_key]")
    target = build_targets(settings)["video"]
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 9, 3 * 48, generator=generator) for _ in range(2))
    masked = torch.tensor([[[1, 4, 5, 8]]])
    p, q = (softened(target, whole)[0][:, :, masked[0, 0]][..., masked[0, 0]] for whole in (teacher, student))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    expected = (p * (p / q).log()).sum(-1).mean()
    found = target.compare(gather_masked(student, masked), gather_masked(teacher, masked), Places(masked, masked))
    torch.testing.assert_close(found, expected)


def test_losses_of_samples_average_to_the_loss_and_both_relations_are_added() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, source = (torch.randn(3, 7, 3 * 48, generator=generator) for _ in range(2))
    losses = {}
    for kinds in ("query_key", "value_value", "query_key,value_value"):
        overrides = ["teachers.video.target.kind=relations", f"teachers.video.target.relations=[{kinds}]"]
        target = build_targets(recipe(*overrides))["video"]
        losses[kinds] = target.compare(prediction, source)
        torch.testing.assert_close(target.rows(prediction, source).mean(), losses[kinds])
        alone = torch.stack([target.compare(prediction[row : row + 1], source[row : row + 1]) for row in range(3)])
        torch.testing.assert_close(alone, target.rows(prediction, source))
    torch.testing.assert_close(losses["query_key"] + losses["value_value"], losses["query_key,value_value"])


def test_what_knows_nothing_of_the_clip_has_uniform_relations() -> None:
    """KL of each row against the uniform distribution: the logarithm of the number of tokens less the row's entropy."""
    target = build_targets(recipe("teachers.video.target.kind=relations"))["video"]
    source = 3 * torch.randn(2, 7, 3 * 48, generator=torch.Generator().manual_seed(0))
    entropies = [-(rows * rows.log()).sum(-1) for rows in softened(target, source)]
    expected = sum(math.log(7) - entropy.mean() for entropy in entropies)
    torch.testing.assert_close(target.trivial_loss(source), expected)
    measured = target.measure(source, source, target.compare(source, source))
    assert measured["loss_relative/video"] == 0.0


@torch.no_grad()
def test_token_relations_follow_the_cosines_of_the_teachers_tokens() -> None:
    settings = recipe("teachers.video.target.kind=token_relations", "teachers.video.target.norm=final")
    teacher, target = build_teacher("video", settings.teachers["video"], settings), build_targets(settings)["video"]
    source = teacher(torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0)))
    turn = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(1)))[0]
    assert float(target.compare(3 * source @ turn, target(source))) < 1e-10, "a rotation and a scale change no cosine"
    assert float(target.compare(source + 1, target(source))) > 1e-3


def test_relations_are_counted_and_their_teacher_stops_at_their_projection() -> None:
    """A head and relation takes 4 products of tokens with tokens; the teacher runs 2 blocks and a projection."""
    plain = recipe_flops(recipe())
    settings = recipe("teachers.video.target.kind=relations")
    counted = recipe_flops(settings)
    tokens, predicted, width = 32, settings.predicted_tokens, 48
    assert counted.targets == {"image": 0, "video": 2 * 4 * 2 * predicted**2 * width}
    assert counted.decoders["video"] - plain.decoders["video"] == 2 * predicted * 32 * (3 - 1) * width
    block = 8 * tokens * width**2 + 4 * tokens * width * 4 * width + 4 * tokens**2 * width
    patches = 2 * tokens * 3 * 2 * 16**2 * width
    assert counted.teachers["video"] == patches + 2 * block + 6 * tokens * width**2


def test_memory_of_relations_is_planned() -> None:
    """Beside prediction, target and error of a head that is three times as wide: a chunk of matrices, and four gradients."""
    plain, settings = recipe("batch.micro=2"), recipe("batch.micro=2", "teachers.video.target.kind=relations")
    predicted, pairs = settings.predicted_tokens, 2 * 4
    target = build_targets(settings)["video"]
    matrices = 5 * 4 * pairs * predicted**2
    assert target.held_bytes(2, predicted) == matrices + 4 * 4 * pairs * predicted * 12
    grown = activation_bytes(settings, recipe_sizes(settings)) - activation_bytes(plain, recipe_sizes(plain))
    assert grown == (2 + 8) * 2 * 48 * predicted * 2 + target.held_bytes(2, predicted)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["kind=relations", "blocks=[0,1]"], "relations are those of one block, got blocks [0, 1]; use more_targets"),
        (["kind=relations", "loss=cosine"], "kind relations compares products of tokens: it takes no loss"),
        (["kind=relations", "norm=final", "normalise=true"], "it takes no norm, normalise"),
        (["kind=token_relations", "mode=each"], "kind token_relations compares products of tokens: it takes no mode"),
        (["relations=[query_key]"], "relations are compared by kind relations, not features"),
        (["kind=relations", "blocks=[3]"], "blocks: 3 is outside a network of 3 blocks"),
    ],
)
def test_what_cannot_be_is_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(*(f"teachers.video.target.{override}" for override in overrides))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_network_without_heads_is_refused() -> None:
    timm = {"network": "timm:resnet18", "embed_dim": 512, "patch_px": 32, "target": {"kind": "relations"}}
    with pytest.raises(ConfigError, match="reads queries, keys and values, which timm:resnet18 does not give"):
        mvd_ds.build_teacher(timm, frames=4, size_px=64)
