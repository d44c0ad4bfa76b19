"""Compiled blocks equal eager ones, and where they do not, that is told and training goes on."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from mvd_ds.models.acceleration.compiled import compile_blocks
from mvd_ds.models.layers import Block, run_blocks


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests() -> None:
    torch._dynamo.reset()


class Stack(nn.Module):
    """Three blocks of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(32, 2) for _ in range(3))


def gradients(stack: Stack, checkpoint_every: int, batch: int = 2) -> list[torch.Tensor]:
    """Output and all gradients of a pass with drop path."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(batch, 10, 32, generator=generator, requires_grad=True)
    factors = torch.rand(batch, 3, 2, generator=generator)
    output = run_blocks(stack.blocks, tokens, factors, checkpoint_every)
    return [output, *torch.autograd.grad(output.square().mean(), [tokens, *stack.parameters()])]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("checkpoint_every", [0, 1, pytest.param(2, marks=pytest.mark.nightly)])
def test_compiled_equals_eager_with_and_without_checkpointing(backend: str, checkpoint_every: int) -> None:
    eager = Stack()
    compiled = copy.deepcopy(eager)
    (stack,) = compile_blocks(compiled, "stack", backend)
    torch._dynamo.utils.counters.clear()
    for batch in (2, 2, 1):  # another shape runs eagerly
        pairs = zip(gradients(compiled, checkpoint_every, batch), gradients(eager, checkpoint_every, batch), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert stack.fault is None and stack.usual == {(torch.Size([2, 10, 32]), None, True, None)}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "one graph for all blocks"


def test_a_last_block_of_which_some_tokens_are_wanted_has_a_graph_of_its_own() -> None:
    wanted = torch.tensor([[3, 9, 11, 0, 19]])
    eager = Stack()
    compiled = copy.deepcopy(eager)
    (stack,) = compile_blocks(compiled, "stack", "aot_eager")
    torch._dynamo.utils.counters.clear()
    tokens = torch.randn(2, 10, 32, requires_grad=True)
    for _ in range(2):
        one, other = (run_blocks(model.blocks, tokens, None, 1, wanted) for model in (compiled, eager))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert stack.fault is None and len(stack.usual) == 2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_compiler_that_fails_is_told_once_and_blocks_run_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> None:
        raise ValueError("no compiler on this machine")

    eager = Stack()
    compiled = copy.deepcopy(eager)
    (stack,) = compile_blocks(compiled, "the student's", broken)
    with caplog.at_level(logging.WARNING, "mvd_ds"):
        for _ in range(2):
            for one, other in zip(gradients(compiled, 1), gradients(eager, 1), strict=True):
                assert one.equal(other)
    assert stack.fault is not None and "no compiler on this machine" in stack.fault
    assert [record.message.count("NOT COMPILED") for record in caplog.records] == [1]


def test_a_graph_that_computes_something_else_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def wrong(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        return lambda *values: tuple(1.01 * value for value in graph(*values))

    eager = Stack()
    compiled = copy.deepcopy(eager)
    (stack,) = compile_blocks(compiled, "the teacher's", wrong)
    tokens = torch.randn(2, 10, 32)
    with torch.no_grad(), caplog.at_level(logging.WARNING, "mvd_ds"):
        assert run_blocks(compiled.blocks, tokens, None, 0).equal(run_blocks(eager.blocks, tokens, None, 0))
    assert stack.graph is None and "differs from the eager one by 1.0e-02" in caplog.text


def test_so_many_shapes_have_a_graph() -> None:
    stack = Stack()
    (compiled,) = compile_blocks(stack, "stack", "aot_eager", limit=2)
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        for batch in (1, 2, 3, 2):
            run_blocks(stack.blocks, torch.randn(batch, 10, 32), None, 0)
    assert {shape.tokens[0] for shape in compiled.usual} == {1, 2}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_hooks_inside_of_a_block_are_called() -> None:
    stack = Stack()
    compile_blocks(stack, "stack", "aot_eager")
    heard: list[torch.Size] = []
    tokens = torch.randn(2, 10, 32)
    with torch.no_grad():
        run_blocks(stack.blocks, tokens, None, 0)
        hook = stack.blocks[1].attention.qkv.register_forward_hook(lambda module, inputs, output: heard.append(output.shape))
        run_blocks(stack.blocks, tokens, None, 0)
        hook.remove()
        run_blocks(stack.blocks, tokens, None, 0)
    assert heard == [(2, 10, 96)]


def test_hooks_from_the_beginning_are_told(caplog: pytest.LogCaptureFixture) -> None:
    stack = Stack()
    compile_blocks(stack, "stack", "aot_eager")
    stack.blocks[0].mlp.register_forward_pre_hook(lambda module, inputs: None)
    with torch.no_grad(), caplog.at_level(logging.WARNING, "mvd_ds"):
        run_blocks(stack.blocks, torch.randn(2, 10, 32), None, 0)
    assert "leaf_module: Block" in caplog.text
