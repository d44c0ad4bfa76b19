"""Blocks of timm and transformers are compiled where that works, and say where it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mvd_ds
from hf_networks import CASES, write
from mvd_ds.models.acceleration.compiled_libraries import compile_stacks


@pytest.fixture(scope="module", params=["vjepa2", "dinov3_vit", "timm"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "timm":
        values = {"network": "timm:test_vit", "embed_dim": 64, "patch_px": 16}
    else:
        folder = tmp_path_factory.mktemp("hf")
        write(CASES[request.param], folder)
        values = {"network": f"hf:{folder}", "weights": str(folder)}
    return lambda: mvd_ds.build_teacher(values, frames=8, size_px=32, seed=1)


@torch.no_grad()
def test_one_graph_gives_what_eager_blocks_give(teacher: Any) -> None:
    graphs = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    network, clip = teacher(), torch.randn(1, 3, 8, 32, 32)
    expected = network(clip)
    (stack,) = compile_stacks(network, "teacher", backend)
    torch.testing.assert_close(network(clip), expected)
    torch.testing.assert_close(network(clip), expected)
    # The first block of V-JEPA 2 gets tokens that lie otherwise in memory.
    count = len(graphs)
    assert stack.fault is None and count <= 2, "one graph for all blocks"
    assert network(torch.randn(2, 3, 8, 32, 32)).shape[0] == 2 and len(graphs) == count, "other shapes run eagerly"


@torch.no_grad()
def test_a_graph_that_differs_or_does_not_compile_is_not_used(teacher: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(graph: Any, example: Any) -> Any:
        raise RuntimeError("no compiler here")

    def wrong(graph: Any, example: Any) -> Any:
        return lambda *given: tuple(value * 1.01 for value in graph.forward(*given))

    for backend, words in ((broken, "no compiler here"), (wrong, "it differs from the eager one by 1.0e-02")):
        torch._dynamo.reset()
        network, clip = teacher(), torch.randn(1, 3, 8, 32, 32)
        expected = network(clip)
        (stack,) = compile_stacks(network, "teacher", backend)
        assert torch.equal(network(clip), expected) and torch.equal(network(clip), expected)
        assert stack.fault is not None and words in stack.fault and "NOT COMPILED" in caplog.text
