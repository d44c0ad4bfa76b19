"""The package as a library: light to import, one line a fault, masks in one polarity."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import mvd_ds
from mvd_ds.api import split_mask
from mvd_ds.config import ConfigError

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8}
CLIP = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_import_is_light_and_the_names_are_there():
    code = "import sys, mvd_ds; assert 'build_student' in dir(mvd_ds); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
    for name in mvd_ds.API:
        assert callable(getattr(mvd_ds, name))
    assert {*mvd_ds.API, "ConfigError"} == set(mvd_ds.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'build_teachers'"):
        mvd_ds.build_teachers  # noqa: B018


def test_true_is_masked():
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    visible, masked = split_mask(mask)
    assert visible.tolist() == [[[1, 3]], [[0, 1]]] and masked.tolist() == [[[0, 2]], [[2, 3]]]
    assert split_mask(mask.unsqueeze(0))[0].shape == (1, 2, 2)
    for wrong in (mask.long(), mask[0], torch.tensor([[True, False], [True, True]])):
        with pytest.raises(ValueError, match="mask"):
            split_mask(wrong)


@torch.no_grad()
def test_a_mask_is_the_same_as_indices():
    student = mvd_ds.build_student(SMALL, frames=4, size_px=16)
    mask = torch.rand(2, 3, 8, generator=torch.Generator().manual_seed(1)).argsort(dim=-1) < 5
    visible, masked = split_mask(mask)
    for name, value in student(CLIP, mask).items():
        assert value.shape == (6, 5, 32)
        assert torch.equal(value, student(CLIP, visible, masked)[name])
    encoder = mvd_ds.build_encoder(SMALL, frames=4, size_px=16)
    assert torch.equal(encoder(CLIP, mask), encoder(CLIP, visible))
    assert encoder(CLIP).shape == (2, 8, 32)


@torch.no_grad()
def test_a_teacher_may_serve_another_grid():
    teacher = mvd_ds.build_teacher(SMALL | {"position": "sinusoid1d"}, 4, 32, grid=(2, 2, 2))
    assert teacher(torch.randn(1, 3, 4, 32, 32)).shape == (1, 8, 32)


def test_gradients_of_an_encoder_have_their_names():
    encoder = mvd_ds.build_encoder(SMALL | {"position": "sinusoid1d"}, frames=4, size_px=16)
    encoder(CLIP).square().sum().backward()
    gradients = mvd_ds.export_gradients(encoder, "videomae")
    assert gradients["encoder.blocks.0.attn.q_bias"].shape == (32,) and len(gradients) == len(list(encoder.parameters()))


def test_an_encoder_says_how_to_get_classes(tmp_path):
    mvd_ds.save(mvd_ds.build_student(SMALL, frames=4, size_px=16), tmp_path / "student")
    with pytest.raises(ConfigError, match="without a class head; train one: python -m mvd_ds finetune finetune_folder weights="):
        mvd_ds.load(tmp_path / "student").classify("video.mp4", top=1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mvd_ds.build_student({"size": "giant"}), "size 'giant' is not known"),
        (lambda: mvd_ds.build_student(SMALL | {"heads": 3}), "heads: is not known; did you mean 'num_heads'?"),
        (
            lambda: mvd_ds.build_student(SMALL, {"num_heads": 5}),
            "decoder.embed_dim 32 is not divisible by decoder.num_heads 5",
        ),
        (lambda: mvd_ds.build_student(SMALL, {"embed_dim": 24}), "position sincos3d needs decoder.embed_dim divisible by 16"),
        (lambda: mvd_ds.build_student(SMALL, frames=5), "clip of 5 frames is not divisible by tubelet_frames 2"),
        (lambda: mvd_ds.build_teacher(SMALL, size_px=20), "clip of 20 px is not divisible by patch_px 8"),
        (lambda: mvd_ds.export(mvd_ds.build_encoder(SMALL, 4, 16), "onnx"), "format 'onnx' is not known"),
        (lambda: mvd_ds.distillation_loss({"a": CLIP}, {"b": CLIP}, CLIP), "have different names"),
        (lambda: mvd_ds.load(mvd_ds.build_encoder(SMALL, 4, 16), {}), "state dict: holds no state dict"),
        (lambda: mvd_ds.relation_loss(torch.ones(1, 4, 32), torch.ones(1, 4, 32), 4), "is no multiple of 3 * 4 heads"),
        (lambda: mvd_ds.train("quickstart_image", {"run.output": "x"}), 'not a dict: mvd_ds.train(RECIPE, "run.output='),
    ],
)
def test_faults_are_one_line(call, words):
    with pytest.raises(ConfigError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)
