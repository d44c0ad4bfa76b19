"""Blocks compiled by torch: one graph for every kind of block, checked before it is used, with a fallback that is reported.

What is compiled is the arithmetic of a block alone. Hooks of ZeRO-3 and the recomputation of activations stay around it, so
that they need no graph of their own and break none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import FunctionType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._dynamo import exc

from mvd_ds.models.acceleration.fp8 import Fp8Linear, use_fp8
from mvd_ds.models.layers import Block

logger = logging.getLogger(__name__)

#: Largest relative L2 distance of a compiled block's output and gradients from those of an eager one. Fused kernels round to
#: bf16 less often.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
#: The same for linear maps in FP8: a value that was rounded once more or less falls on another of 8 neighbours.
FP8_TOLERANCE = 6e-2
_COMPILER_ERRORS = (exc.TorchDynamoException, exc.FailOnRecompileLimitHit)


class Shape(NamedTuple):
    """The shapes and the mode that a graph was made for."""

    tokens: torch.Size
    wanted: torch.Size | None
    """Shape of the indices of those that are wanted."""
    has_gradients: bool
    turns: torch.Size | None = None
    """Shape of the turns of rotary positions."""

    @classmethod
    def of(cls, tokens: Tensor, wanted: Tensor | None, turns: Tensor | None) -> Shape:
        shapes = [None if tensor is None else tensor.shape for tensor in (wanted, turns)]
        return cls(tokens.shape, shapes[0], torch.is_grad_enabled(), shapes[1])


class CompiledBlocks:
    """``Block.compute`` compiled for the blocks of one stack.

    The first tokens that come decide the shape, and whether there are gradients; others (the few clips of pictures, what is
    left of a chunk) run eagerly, for a graph of their own takes longer than they do. So does a block with hooks
    inside of it. Before its first use the graph is tried on a block of its own, forward and backward, and compared: a graph
    that does not compile or differs is reported once, and the stack runs eagerly from then on.

    Args:
        where: name of the stack, for messages.
        backend: backend of ``torch.compile``.
        limit: shapes that may have a graph, of blocks of which all tokens are wanted and of others each.
    """

    def __init__(self, where: str, backend: str | Callable = "inductor", limit: int = 1) -> None:
        self.where, self.limit = where, limit
        compute = _copy(Block.compute)
        self.graph: Callable[..., Tensor] | None = torch.compile(compute, backend=backend, dynamic=False, fullgraph=True)
        self.usual: set[Shape] = set()
        """Shapes that have a graph."""
        self.fault: str | None = None
        """Reason why the stack runs eagerly, or None."""
        self._inside: dict[Block, tuple[nn.Module, ...]] = {}

    def __call__(
        self, block: Block, tokens: Tensor, branch_factors: Tensor | None, wanted: Tensor | None, turns: Tensor | None = None
    ) -> Tensor:
        """Return what ``block.compute(tokens, branch_factors, wanted, turns)`` returns."""
        if self.graph is None or Shape.of(tokens, wanted, turns) not in self.usual or self._has_hooks(block):
            return block.compute(tokens, branch_factors, wanted, turns)
        try:
            return self.graph(block, tokens, branch_factors, wanted, turns)
        except _COMPILER_ERRORS as error:
            self._give_up(error)
            return block.compute(tokens, branch_factors, wanted, turns)

    def prepare(
        self, block: Block, tokens: Tensor, branch_factors: Tensor | None, wanted: Tensor | None, turns: Tensor | None = None
    ) -> None:
        """Try the graph, once, on what the stack is about to compute. Call it where activations are not recomputed."""
        shape = Shape.of(tokens, wanted, turns)
        if self.graph is None or shape in self.usual:
            return
        if sum((usual.wanted is None) == (wanted is None) for usual in self.usual) >= self.limit:
            return
        self.usual.add(shape)
        if self._has_hooks(block):
            self._give_up("there are hooks inside of its blocks; under ZeRO-3 the JSON must say leaf_module: Block")
            return
        try:
            probe = _like(block, tokens)
            found = _outcome(self.graph, probe, tokens, branch_factors, wanted, turns)
            distance = _distance(found, _outcome(Block.compute, probe, tokens, branch_factors, wanted, turns))
        except Exception as error:  # whatever a compiler may raise: training does not need it
            self._give_up(error)
            return
        tolerance = FP8_TOLERANCE if _is_fp8(block) else TOLERANCE[tokens.dtype]
        if not distance <= tolerance:
            self._give_up(f"it differs from the eager one by {distance:.1e}, more than {tolerance:g}")
            return
        logger.info("%s: compiled for tokens %s, within %.0e of eager blocks", self.where, tuple(tokens.shape), distance)

    def _has_hooks(self, block: Block) -> bool:
        """Return whether a module inside of ``block`` has hooks, which a graph would pass by."""
        if block not in self._inside:
            self._inside[block] = tuple(block.modules())[1:]
        return any(module._forward_hooks or module._forward_pre_hooks for module in self._inside[block])

    def _give_up(self, reason: object) -> None:
        self.graph, self.fault = None, " ".join(str(reason).split())[:300] or repr(reason)
        logger.warning("%s: NOT COMPILED, every step is slower; engine.compile=never keeps to that: %s", self.where, self.fault)


def wants_compiling(setting: str, device: torch.device) -> bool:
    """Return whether ``engine.compile`` asks for it on ``device``."""
    return setting == "blocks" or (setting == "auto" and device.type == "cuda")


def compile_blocks(model: nn.Module, name: str, backend: str | Callable = "inductor", limit: int = 1) -> list[CompiledBlocks]:
    """Compile every stack of blocks in ``model`` when its first tokens come.

    Args:
        name: name of the model, for messages.
        limit: shapes of tokens that may have a graph of their own; a training has one.

    Returns:
        one for each stack, which tells later whether it succeeded.
    """
    stacks = []
    for path, module in model.named_modules():
        blocks = [block for block in module if isinstance(block, Block)] if isinstance(module, nn.ModuleList) else []
        if blocks:
            stacks.append(CompiledBlocks(f"{name} {path}", backend, limit))
        for block in blocks:
            block.backend = stacks[-1]
    return stacks


def _copy(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function of its own: torch keeps a few graphs of one code, and looks through them in every call."""
    assert isinstance(function, FunctionType)
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__)


def _like(block: Block, tokens: Tensor) -> Block:
    """Return a block with random weights in place of those of ``block``, which may be sharded."""
    with torch.random.fork_rng(devices=[]):
        probe = Block(*block.arguments).to(tokens.device, tokens.dtype)
    if _is_fp8(block):
        use_fp8(probe)
    return probe.train(block.training).requires_grad_(next(block.parameters()).requires_grad)


def _is_fp8(block: Block) -> bool:
    return isinstance(block.attention.qkv, Fp8Linear)


def _outcome(
    run: Callable[..., Tensor],
    block: Block,
    tokens: Tensor,
    branch_factors: Tensor | None,
    wanted: Tensor | None,
    turns: Tensor | None,
) -> list[Tensor]:
    """Return the output, and the gradients of its sum of squares where there are any."""
    tokens = tokens.detach().requires_grad_(torch.is_grad_enabled())
    output = run(block, tokens, branch_factors, wanted, turns)
    if not torch.is_grad_enabled():
        return [output]
    trained = [parameter for parameter in block.parameters() if parameter.requires_grad]
    return [output.detach(), *torch.autograd.grad(output.float().square().mean(), [tokens, *trained])]


def _distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the larger relative L2 distance of the output and of all gradients together."""
    pairs = [(found[:1], expected[:1]), (found[1:], expected[1:])]
    joined = [[torch.cat([part.float().flatten() for part in parts]) for parts in pair] for pair in pairs if pair[0]]
    return max(float((one - other).norm() / other.norm()) for one, other in joined)
