"""Teachers that have several targets: one pass gives what all of them are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mvd_ds
from mvd_ds.config import ConfigError, load_recipe
from mvd_ds.objectives.losses import smooth_l1
from mvd_ds.objectives.targets import TARGETS, build_targets

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEACHER: dict[str, Any] = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_px": 16}
MORE = [
    *("teachers.video.more_targets.deep.blocks=[0,1]", "teachers.video.more_targets.deep.mode=each"),
    *("teachers.video.more_targets.deep.weight=0.5", "teachers.video.more_targets.deep.normalise=true"),
    *("teachers.video.decoder.depth=1", "teachers.video.weights=random", "teachers.image.weights=random"),
]


@torch.no_grad()
def test_one_pass_gives_every_output() -> None:
    more = {"deep": {"blocks": [0, 2], "mode": "concat"}, "average": {"blocks": [0, 2]}}
    clip, wanted = torch.randn(2, 3, 4, 64, 64), torch.tensor([[0, 5], [7, 9]])
    outputs = mvd_ds.build_teacher(TEACHER | {"more_targets": more}, frames=4, size_px=64)(clip)
    alone = {block: mvd_ds.build_teacher(TEACHER | {"target": {"blocks": [block]}}, 4, 64)(clip) for block in (0, 2)}
    assert list(outputs) == ["teacher", "teacher_deep", "teacher_average"]
    torch.testing.assert_close(outputs["teacher"], alone[2])
    torch.testing.assert_close(outputs["teacher_deep"], torch.cat((alone[0], alone[2]), dim=-1))
    torch.testing.assert_close(outputs["teacher_average"], (alone[0] + alone[2]) / 2)
    some = mvd_ds.build_teacher(TEACHER | {"more_targets": more}, frames=4, size_px=64)(clip, wanted)
    torch.testing.assert_close(some["teacher_deep"][1, 1], outputs["teacher_deep"][1, 9])


def test_a_recipe_names_its_outputs_and_their_decoders() -> None:
    recipe = load_recipe("mvd_base_from_base", MORE)
    assert recipe.decoder_names == ("image", "video", "video_deep")
    assert [output.decoder.depth for output in recipe.outputs.values()] == [2, 1, 1]
    assert recipe.drop_path_blocks == 12 + 2 + 1 + 1
    targets = build_targets(recipe)
    assert [target.head.width for target in targets.values()] == [768, 768, 2 * 768]
    assert [target.weight for target in targets.values()] == [1.0, 1.0, 0.5]


def test_each_block_is_normalised_and_compared_by_itself() -> None:
    target = TARGETS["features"](load_recipe("mvd_base_from_base", MORE), "video_deep")
    source, prediction = torch.randn(2, 5, 2 * 768) * 3 + 1, torch.randn(2, 5, 2 * 768)
    made = target(source)
    for half in made.split(768, dim=-1):
        torch.testing.assert_close(half.mean(dim=-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    pairs = zip(prediction.split(768, dim=-1), made.split(768, dim=-1), strict=True)
    torch.testing.assert_close(target.compare(prediction, made), sum(smooth_l1(*pair) for pair in pairs) / 2)


@pytest.mark.parametrize("cls_token", [True, False])
@torch.no_grad()
def test_a_summary_is_the_class_token_or_the_mean(cls_token: bool) -> None:
    """Of an image teacher it is the mean over the frames; through the final norm as tokens are."""
    image = {"kind": "image", "tubelet_frames": 1, "position": "sincos2d", "cls_token": cls_token}
    summary = {"kind": "summary", "norm": "final", "blocks": [1], "summary": "own" if cls_token else "mean"}
    more = {"target": {"norm": "final"}, "more_targets": {"summary": summary}}
    clip = torch.randn(2, 3, 4, 64, 64)
    teacher = mvd_ds.build_teacher(TEACHER | image | more, frames=4, size_px=64)
    found = teacher(clip)
    frames = clip[:, :, ::2].transpose(1, 2).flatten(0, 1)[:, :, None]
    tokens = teacher.encoder.embed(frames)
    for block in teacher.encoder.blocks[:2]:
        tokens = block(tokens)
    tokens = teacher.encoder.norm(tokens).unflatten(0, (2, 2))
    expected = tokens[:, :, 0].mean(dim=1) if cls_token else tokens.mean(dim=(1, 2))
    torch.testing.assert_close(found["teacher_summary"], expected)
    assert found["teacher"].shape == (2, 32, 32)


@pytest.mark.parametrize(("name", "width"), [("vit_tiny_patch16_224", 192), ("vit_base_patch16_siglip_224", 768)])
@torch.no_grad()
def test_a_summary_of_timm(name: str, width: int) -> None:
    """The class token of one, and the attention pooling that the other ends with."""
    target = {"kind": "summary", "norm": "final"}
    network = {"network": f"timm:{name}", "embed_dim": width, "patch_px": 16, "weights": "random", "target": target}
    teacher = mvd_ds.build_teacher(network | {"input_mean": MEAN, "input_std": STD}, frames=2, size_px=32)
    clip = torch.randn(1, 3, 2, 32, 32)
    tokens = teacher.encoder.network.forward_features(clip[:, :, 0])
    pool = teacher.encoder.network.attn_pool
    torch.testing.assert_close(teacher(clip), tokens[:, 0] if pool is None else pool(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teachers.video.more_targets.deep.blocks=[12]", r"teachers\.video\.more_targets\.deep\.blocks: 12 is outside"),
        ("teachers.video.more_targets.deep.norm=final", "norm of all more_targets must be one"),
        ("teachers.video.target={kind: summary, mode: each}", "a summary is one vector of one block: remove mode"),
        ("teachers.video.target={kind: summary, blocks: [3, 4]}", "a summary is one vector .* remove all but one of blocks"),
        (
            "teachers.video.target={kind: summary}",
            r"target\.kind summary: this network has no class token; set target.summary=mean",
        ),
        ("labels={classes: 1}", "labels.classes 1"),
        ("teachers.video.decoder.num_heads=7", r"teachers\.video\.decoder\.num_heads 7"),
    ],
)
def test_what_cannot_be_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("mvd_base_from_base", [override])
