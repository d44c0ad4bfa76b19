"""Targets: which frames, which blocks, which grid."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.config import TrainingRecipe
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.resampling import resize_grid
from mvd_ds.models.teachers import Teacher, build_teacher
from mvd_ds.models.vit import VisionTransformer

CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(3))


def built(recipe: TrainingRecipe, name: str) -> Teacher:
    return build_teacher(name, recipe.teachers[name], recipe)


def whole_encoder(recipe: TrainingRecipe, name: str) -> VisionTransformer:
    """The same random network with all of its blocks."""
    settings = recipe.teachers[name]
    grid = settings.grid(
        1 if settings.kind == "image" else recipe.data.clip.frames, settings.input_px or recipe.data.clip.size_px
    )
    return initialise(VisionTransformer(settings, grid), recipe.run.seed, prefix=f"teachers.{name}").eval()


def block_outputs(encoder: VisionTransformer, clip: torch.Tensor) -> list[torch.Tensor]:
    outputs, tokens = [], encoder.embed(clip)
    for block in encoder.blocks:
        tokens = block(tokens)
        outputs.append(tokens)
    return outputs


def test_a_teacher_is_frozen(recipe):
    teacher = built(recipe(), "video")
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(CLIP).requires_grad


def test_a_video_teacher_gives_its_last_block_before_the_norm(recipe, relative_error):
    chosen = recipe()
    expected = block_outputs(whole_encoder(chosen, "video"), CLIP)[-1]
    assert relative_error(built(chosen, "video")(CLIP), expected) < 1e-6


@pytest.mark.parametrize("frame", [0, 1])
def test_an_image_teacher_sees_one_frame_of_every_tubelet(recipe, frame, relative_error):
    chosen = recipe(teachers={"image": {"frame_in_tubelet": frame}})
    encoder = whole_encoder(chosen, "image")
    slots = [block_outputs(encoder, CLIP[:, :, 2 * slot + frame].unsqueeze(2))[-1][:, 1:] for slot in range(2)]
    target = built(chosen, "image")(CLIP)
    assert target.shape == (2, 32, 24)
    assert relative_error(target, torch.cat(slots, dim=1)) < 1e-6


def test_chosen_blocks_are_normed_then_averaged(recipe, relative_error):
    chosen = recipe(teachers={"image": {"target": {"blocks": [0, -2], "norm": "final"}}})
    teacher = built(chosen, "image")
    assert len(teacher.encoder.blocks) == 2, "the last block is never read"
    encoder = whole_encoder(chosen, "image")
    for module in (teacher.encoder, encoder):
        torch.nn.init.constant_(module.norm.weight, 3.0)
    outputs = block_outputs(encoder, CLIP[:, :, ::2].transpose(1, 2).flatten(0, 1).unsqueeze(2))
    expected = (encoder.norm(outputs[0]) + encoder.norm(outputs[1])) / 2
    assert relative_error(teacher(CLIP), expected[:, 1:].reshape(2, 32, 24)) < 1e-6


def test_an_intermediate_block_drops_what_follows(recipe, relative_error):
    chosen = recipe(teachers={"video": {"target": {"blocks": [0]}}})
    teacher = built(chosen, "video")
    assert {name.split(".")[1] for name, _ in teacher.named_parameters()} == {"patch_embed", "blocks"}
    assert len(teacher.encoder.blocks) == 1
    assert relative_error(teacher(CLIP), block_outputs(whole_encoder(chosen, "video"), CLIP)[0]) < 1e-6


@pytest.mark.parametrize("name", ["image", "video"])
def test_chunks_change_nothing(recipe, name, relative_error):
    whole = built(recipe(), name)(CLIP)
    assert relative_error(built(recipe(teachers={name: {"chunk_clips": 1}}), name)(CLIP), whole) < 1e-6


@pytest.mark.parametrize(
    "settings",
    [{}, {"chunk_clips": 1}, {"target": {"norm": "final"}}, {"target": {"blocks": [0, 1]}}, {"patch_px": 4}],
    ids=str,
)
@pytest.mark.parametrize("name", ["image", "video"])
def test_wanted_tokens_are_those_of_all(recipe, name, settings, relative_error):
    resized = {"resize": "bilinear"} if "patch_px" in settings else {}
    teacher = built(recipe(teachers={name: settings | resized}), name)
    wanted = torch.stack([torch.randperm(32)[:20], torch.randperm(32)[:20]])
    expected = torch.stack([features[row] for features, row in zip(teacher(CLIP), wanted, strict=True)])
    assert relative_error(teacher(CLIP, wanted), expected) < 1e-6


@pytest.mark.parametrize("name", ["image", "video"])
def test_the_last_mlp_computes_wanted_tokens_alone(recipe, name):
    teacher, seen = built(recipe(), name), []
    for block in teacher.encoder.blocks:
        block.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[:-1].numel()))
    teacher(CLIP, torch.arange(20).expand(2, -1))
    inputs = 2 * 2 * 17 if name == "image" else 2 * 32
    assert seen == [inputs] * (len(seen) - 1) + [2 * 20]


def test_resize_is_bilinear_within_slots(recipe, relative_error):
    chosen = recipe(teachers={"image": {"patch_px": 4, "resize": "bilinear"}})
    fine = built(recipe(data={"clip": {"size_px": 64}}, teachers={"image": {"input_px": 32, "patch_px": 4}}), "image")
    features = fine(CLIP).unflatten(1, (2, 8, 8))
    # Halving an axis with aligned cell centres is the mean of neighbouring pairs.
    expected = features.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5)).flatten(1, 3)
    target = built(chosen, "image")(CLIP)
    assert target.shape == (2, 32, 24)
    assert relative_error(target, expected) < 1e-5


def test_resize_over_time():
    tokens = torch.arange(4.0).reshape(1, 4, 1)
    assert resize_grid(tokens, (4, 1, 1), (2, 1, 1)).flatten().tolist() == [0.5, 2.5]
    assert resize_grid(tokens, (4, 1, 1), (4, 1, 1)) is tokens
    assert resize_grid(tokens.bfloat16(), (1, 2, 2), (1, 1, 1)).dtype == torch.bfloat16


def test_a_teacher_of_another_size_sees_its_own_view(recipe):
    chosen = recipe(teachers={"image": {"patch_px": 14, "input_px": 56}})
    assert built(chosen, "image")(torch.randn(2, 3, 4, 56, 56)).shape == (2, 32, 24)
    with pytest.raises(ValueError, match="must be"):
        built(chosen, "image")(CLIP)


def test_random_teachers_differ_from_each_other_and_not_between_builds(recipe, video_teacher):
    chosen = recipe(teachers={"video": video_teacher, "again": video_teacher})
    assert torch.equal(built(chosen, "video")(CLIP), built(chosen, "video")(CLIP))
    assert not torch.allclose(built(chosen, "video")(CLIP), built(chosen, "again")(CLIP))


def test_bf16(recipe, relative_error, image_teacher):
    teacher = built(recipe(teachers={"image": image_teacher | {"target": {"blocks": [0, 1]}}}), "image")
    expected = teacher(CLIP)
    out = teacher.bfloat16()(CLIP.bfloat16())
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), expected) < 3e-2
