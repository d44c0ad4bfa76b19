"""DALL-E's encoder: its geometry, its names, and weights out of a pickle of the whole network without a line of its code."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ConfigError, validate
from mvd_ds.config.recipes import TrainingRecipe
from mvd_ds.models.networks.dvae import DvaeEncoder, read_dvae
from mvd_ds.models.teachers import build_teacher
from mvd_ds.objectives.targets import build_targets


def _nested(tensors: dict[str, Tensor], kinds: dict[str, type[nn.Module]]) -> nn.Module:
    """Modules with the parameters ``tensors`` at their dotted names, of classes that a file then names."""
    made = kinds["Encoder"]()
    for name, value in tensors.items():
        *path, last = name.split(".")
        here = made
        for depth, part in enumerate(path):
            if part not in here._modules:
                kind = "Conv2d" if depth == len(path) - 1 else "EncoderBlock" if part.startswith("block_") else "Sequential"
                here.add_module(part, kinds[kind]())
            here = here._modules[part]
        here.register_parameter(last, nn.Parameter(value))
    return made


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A pickle of a whole network whose package is gone by the time it is read, and its weights."""
    torch.manual_seed(0)
    tensors = {
        f"blocks.{name.removeprefix('encoder.')}": value for name, value in DvaeEncoder(8192, 1, 1, 8).state_dict().items()
    }
    kinds: dict[str, type[nn.Module]] = {"Sequential": nn.Sequential}
    package = {name: types.ModuleType(name) for name in ("dall_e", "dall_e.encoder", "dall_e.utils")}
    for name, home in (("Encoder", "encoder"), ("EncoderBlock", "encoder"), ("Conv2d", "utils")):
        kinds[name] = type(name, (nn.Module,), {"__module__": f"dall_e.{home}"})
        setattr(package[f"dall_e.{home}"], name, kinds[name])
    path = tmp_path_factory.mktemp("dalle") / "encoder.pkl"
    sys.modules.update(package)
    torch.save(_nested(tensors, kinds), path)
    for name in package:
        del sys.modules[name]
    return path, tensors


def _student_of(path: Path) -> TrainingRecipe:
    """A recipe of the codes of DALL-E's encoder in a file."""
    model = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 16, "tubelet_frames": 2}
    values = {
        "objective": "distillation",
        "data": {"clip": {"frames": 4, "stride_frames": 1, "size_px": 32}},
        "model": model,
        "masking": {"ratio": 0.5},
        "decoder": {"embed_dim": 32, "depth": 1, "num_heads": 2},
        "teachers": {"dalle": {"network": "dvae:dalle", "weights": str(path), "input_px": 16, "target": {"kind": "codes"}}},
        "batch": {"micro": 2, "global": 2},
        "schedule": {"steps": 2},
    }
    recipe = validate(values, "test")
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def test_weights_come_out_of_the_pickle_of_the_whole_network(pickled: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = pickled
    found = read_dvae(path)
    assert "dall_e" not in sys.modules and len(found) == len(tensors) == 2 * (2 + 4 * 2 * 4 + 3)
    assert all(torch.equal(found[f"encoder.{name.removeprefix('blocks.')}"], value) for name, value in tensors.items())
    assert sum(value.numel() for value in found.values()) == 53_786_240


def test_code_in_the_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit",)

    torch.save({"blocks.input.w": Hostile()}, tmp_path / "encoder.pkl")
    with pytest.raises(ConfigError, match="refused: reading it would run pickled code"):
        read_dvae(tmp_path / "encoder.pkl")
    torch.save(OrderedDict(other=torch.zeros(2)), tmp_path / "encoder.pkl")
    with pytest.raises(ConfigError, match="is no encoder of DALL-E's discrete VAE"):
        read_dvae(tmp_path / "encoder.pkl")


@pytest.mark.parametrize("fault", ["missing", "more", "another shape"])
def test_weights_that_are_not_those_of_the_encoder_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    shapes = {name: value.shape for name, value in DvaeEncoder(8192, 1, 1, 8).state_dict().items()}
    thin = {f"blocks.{name.removeprefix('encoder.')}": torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    name = "blocks.group_2.block_1.id_path.w"
    if fault == "missing":
        del thin[name]
    else:
        name = "blocks.group_9.w" if fault == "more" else name
        thin[name] = torch.zeros(1, 2)
    torch.save(thin, tmp_path / "encoder.pkl")
    recipe = _student_of(tmp_path / "encoder.pkl")
    with pytest.raises(ConfigError, match=name.removeprefix("blocks.").replace(".", r"\.")):
        build_teacher("dalle", recipe.teachers["dalle"], recipe)


def test_a_teacher_gives_the_largest_logit_of_pixels_mapped_to_the_middle(pickled: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = pickled
    recipe = _student_of(path)
    assert build_targets(recipe)["dalle"].head.width == 8192
    unit = torch.rand(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    codes = build_teacher("dalle", recipe.teachers["dalle"], recipe)((unit - mean) / std)

    def convolve(name: str, x: Tensor) -> Tensor:
        weight = tensors[f"blocks.{name}.w"]
        return F.conv2d(x, weight, tensors[f"blocks.{name}.b"], padding=weight.shape[-1] // 2)

    x = convolve("input", 0.8 * unit[0, :, ::2].transpose(0, 1) + 0.1)
    for group in range(1, 5):
        for block in (1, 2):
            name, inner = f"group_{group}.block_{block}", x
            for layer in range(1, 5):
                inner = convolve(f"{name}.res_path.conv_{layer}", inner.relu())
            x = (convolve(f"{name}.id_path", x) if f"blocks.{name}.id_path.w" in tensors else x) + inner / 64
        x = F.max_pool2d(x, 2) if group < 4 else x
    logits = convolve("output.conv", x.relu()).flatten(2).transpose(1, 2).flatten(0, 1)
    assert codes.shape == (1, 8, 1)
    picked = logits.gather(1, codes[0])[:, 0]
    assert (logits.max(dim=1).values - picked).max() < 1e-4 * logits.abs().max(), "the largest logit, to rounding"
