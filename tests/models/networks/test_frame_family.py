"""Our own image families teach: strict weights in their published layout, counted operations, sizes that are theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mvd_ds
from mvd_ds.config import ConfigError, TeacherSettings
from mvd_ds.models.networks import family_of
from mvd_ds.models.networks.dhvt import Dhvt
from mvd_ds.models.networks.frame_family import FAMILIES, frame_flops

NETWORKS = {"dhvt:tiny_cifar_patch4": 32, "dhvt:tiny_imagenet": 64, "patchconv:s60": 64}


def weights(name: str, path: Path) -> str:
    """A published file: {"model": ...} with a class head."""
    settings = TeacherSettings.model_validate({"network": name, "weights": "random"})
    sizes = (settings.embed_dim, settings.depth, settings.num_heads, settings.patch_px)
    network = FAMILIES[name.partition(":")[0]](*sizes)
    state = network.state_dict() | {"head.weight": torch.zeros(10, settings.embed_dim), "head.bias": torch.zeros(10)}
    torch.save({"model": state}, path / "published.pth")
    return str(path / "published.pth")


@torch.no_grad()
@pytest.mark.parametrize(("name", "side"), NETWORKS.items())
def test_a_file_teaches_as_its_network_computes(name, side, tmp_path):
    settings = {"network": name, "weights": weights(name, tmp_path), "target": {"blocks": [1, -1], "norm": "final"}}
    teacher = mvd_ds.build_teacher(settings, frames=4, size_px=side, tubelet_frames=2)
    clip = torch.randn(2, 3, 4, side, side)
    shape = TeacherSettings.model_validate(settings)
    network = FAMILIES[name.partition(":")[0]](shape.embed_dim, shape.depth, shape.num_heads, shape.patch_px).eval()
    state = torch.load(settings["weights"], weights_only=True)["model"]
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.")})
    frames = clip[:, :, ::2].transpose(1, 2).flatten(0, 1)
    (early, _), (last, _) = network(frames, (1, shape.depth - 1))
    expected = ((network.norm(early) + network.norm(last)) / 2).unflatten(0, (2, 2)).flatten(1, 2)
    torch.testing.assert_close(teacher(clip), expected, atol=1e-5, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("name", "side"), [("dhvt:tiny_cifar_patch4", 32), ("patchconv:s60", 32)])
def test_a_summary_is_the_normed_class_token(name, side):
    settings = {"network": name, "weights": "random", "target": {"kind": "summary"}}
    teacher = mvd_ds.build_teacher(settings, frames=2, size_px=side, tubelet_frames=2)
    clip, network = torch.randn(2, 3, 2, side, side), teacher.encoder.network
    ((tokens, cls),) = network(clip[:, :, 0], (teacher.network.block_count - 1,))
    torch.testing.assert_close(teacher(clip), network.summarise(tokens, cls), atol=1e-5, rtol=1e-4)


def test_statistics_of_batch_norms_come_from_the_file(tmp_path):
    path = weights("dhvt:tiny_cifar_patch4", tmp_path)
    content = torch.load(path, weights_only=True)
    content["model"]["blocks.3.mlp.bn2.running_mean"] += 2.0
    torch.save(content, path)
    teacher = mvd_ds.build_teacher({"network": "dhvt:tiny_cifar_patch4", "weights": path}, frames=2, size_px=32)
    assert (teacher.encoder.network.blocks[3].mlp.bn2.running_mean == 2.0).all() and not teacher.encoder.training


def test_what_is_not_read_is_not_there():
    settings = {"network": "patchconv:s60", "weights": "random", "target": {"blocks": [4]}}
    network = mvd_ds.build_teacher(settings, frames=2, size_px=32).encoder.network
    assert len(network.blocks) == 5 and not hasattr(network, "blocks_token_only")
    shape = TeacherSettings.model_validate(settings)
    outline, blocks = family_of(shape).outline(shape, 2, 32)
    assert blocks == 5 and {name for name, _ in outline.named_parameters()} == {
        f"network.{name}" for name, _ in network.named_parameters()
    }


@torch.no_grad()
@pytest.mark.parametrize("name", ["dhvt:tiny_cifar_patch4", "patchconv:s60"])
def test_every_module_gives_what_hooks_of_zero3_take(name):
    """Tensors, lists and tuples; and every parameter is one of a module that is called, in whose call it is gathered."""
    teacher = mvd_ds.build_teacher({"network": name, "weights": "random", "target": {"blocks": [1]}}, frames=2, size_px=32)
    called = set()

    def look(module: torch.nn.Module, _inputs: object, output: object) -> None:
        called.add(module)
        assert isinstance(output, torch.Tensor | list | tuple), type(module)

    for module in teacher.encoder.modules():
        module.register_forward_hook(look)
    teacher(torch.randn(1, 3, 2, 32, 32))
    owners = {module for module in teacher.encoder.modules() if next(module.parameters(recurse=False), None) is not None}
    assert owners and owners <= called


def test_operations_of_known_networks():
    """GFLOP of a frame of 224 px, twice the multiply-adds that PatchConvNet's README has: 4.0 for S60."""
    settings = TeacherSettings.model_validate({"network": "patchconv:s60", "weights": "random"})
    assert frame_flops(settings, 224) / 2e9 == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "dhvt:huge"}, "network 'dhvt:huge' is not known; names are tiny_cifar_patch4, "),
        ({"embed_dim": 100}, "network dhvt:tiny_cifar_patch4 has sizes of its own, not embed_dim 100: remove it"),
        ({"target": {"blocks": [12]}}, "are outside the 12 blocks of dhvt:tiny_cifar_patch4"),
        ({"weights": "nowhere.pth"}, "nowhere.pth: there is no such file"),
        ({"input_px": 30}, "clip of 30 px is not divisible by patch_px 4"),
    ],
)
def test_bad_input_is_one_line(change, words):
    with pytest.raises(ConfigError) as error:
        mvd_ds.build_teacher({"network": "dhvt:tiny_cifar_patch4", "weights": "random", **change}, frames=2, size_px=32)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_size_are_refused(tmp_path):
    torch.save({"model": Dhvt(192, 12, 4, 2).state_dict()}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"weights do not fit Dhvt: .* missing: patch_embed\.proj\.2"):
        settings = {"network": "dhvt:tiny_cifar_patch4", "weights": str(tmp_path / "other.pth")}
        mvd_ds.build_teacher(settings, frames=2, size_px=32)
