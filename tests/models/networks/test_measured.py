"""Memory of a forward pass that is counted without data is that of a real one, as torch's profiler sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import mvd_ds
from hf_networks import CASES, write
from mvd_ds.config import TeacherSettings
from mvd_ds.models.networks.hf_family import outline
from mvd_ds.models.networks.measured import forward_cost


def test_what_is_alive_at_once_is_counted() -> None:
    """Both sides of the activation are there at once, in fp32; two products are counted."""
    cost = forward_cost(nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 10)), (8, 10))
    assert cost == (2 * 2 * 8 * 10 * 100, 2 * 4 * 8 * 100)


def measured(module: nn.Module, frames: torch.Tensor) -> int:
    """The largest sum of what a real forward pass allocates and has not freed, on the CPU."""
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        module(frames)
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for size in sizes:
        now += size
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnextv2_atto"])
def test_networks_of_timm(name: str) -> None:
    network = timm.create_model(name, num_classes=0).eval()
    real = measured(network, torch.randn(1, 3, 224, 224))
    assert forward_cost(network, (1, 3, 224, 224)).peak_bytes == pytest.approx(real, rel=0.1)


def test_a_network_of_transformers(tmp_path: Path) -> None:
    write(CASES["dinov3_vit"], tmp_path)
    values = {"network": f"hf:{tmp_path}", "weights": str(tmp_path)}
    network = mvd_ds.build_teacher(values, frames=2, size_px=128).network.module
    real = measured(network, torch.randn(1, 3, 1, 128, 128))
    counted = forward_cost(outline(TeacherSettings.model_validate(values), 1, 128)[0], (1, 3, 1, 128, 128))
    assert counted.peak_bytes == pytest.approx(real, rel=0.1)
