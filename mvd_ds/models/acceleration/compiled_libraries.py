"""Blocks of timm and transformers compiled by torch: a graph for a stack, tried on its first input, with a fallback."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import exc

from mvd_ds.models.acceleration.compiled import TOLERANCE
from mvd_ds.models.layers import Block

logger = logging.getLogger(__name__)

#: A stack is compiled from so many blocks of one class on.
LEAST_BLOCKS = 2


class CompiledStack:
    """The forward passes of a stack of equal blocks, compiled.

    The shape of the first input has the graph, others run eagerly; so does a block with hooks inside of it, as ZeRO-3 has them.
    The first block's output is compared with that of an eager one. A graph that does not compile, or differs, is reported once.

    Args:
        blocks: blocks of one class; their ``forward`` is replaced.
        where: name of the stack, for messages.
        backend: backend of ``torch.compile``.
    """

    def __init__(self, blocks: list[nn.Module], where: str, backend: str | Callable) -> None:
        self.where = where
        self.eager: Callable[..., Any] = type(blocks[0]).forward
        self.graph: Callable[..., Any] | None = torch.compile(self.eager, backend=backend, dynamic=False, fullgraph=True)
        self.shape: torch.Size | None = None
        """Shape of the tokens that have a graph."""
        self.fault: str | None = None
        """Reason why the stack runs eagerly, or None."""
        for block in blocks:
            block.forward = functools.partial(self._run, block)

    def _run(self, block: nn.Module, tokens: Tensor, *more: Any, **options: Any) -> Any:
        if self.graph is None or self.shape not in (None, tokens.shape):
            return self.eager(block, tokens, *more, **options)
        if any(module._forward_hooks or module._forward_pre_hooks for module in list(block.modules())[1:]):
            return self._give_up("there are hooks inside of its blocks", block, tokens, *more, **options)
        try:
            output = self.graph(block, tokens, *more, **options)
        except (exc.TorchDynamoException, exc.FailOnRecompileLimitHit, RuntimeError) as error:
            return self._give_up(error, block, tokens, *more, **options)
        if self.shape is None:
            self.shape = tokens.shape
            expected = self.eager(block, tokens, *more, **options)
            distance, tolerance = _distance(output, expected), TOLERANCE[tokens.dtype]
            if not distance <= tolerance:
                reason = f"it differs from the eager one by {distance:.1e}, more than {tolerance:g}"
                return self._give_up(reason, block, tokens, *more, **options)
            logger.info("%s: compiled for tokens %s, within %.0e of eager blocks", self.where, tuple(tokens.shape), distance)
        return output

    def _give_up(self, reason: object, block: nn.Module, *given: Any, **options: Any) -> Any:
        """Report why the stack runs eagerly from now on, and return what the eager block gives."""
        self.graph, self.fault = None, " ".join(str(reason).split())[:300] or repr(reason)
        logger.warning("%s: NOT COMPILED, every step is slower; engine.compile=never keeps to that: %s", self.where, self.fault)
        return self.eager(block, *given, **options)


def compile_stacks(model: nn.Module, name: str, backend: str | Callable = "inductor") -> list[CompiledStack]:
    """Compile every stack of equal blocks in ``model`` that are not this package's own, when its first tokens come.

    Args:
        model: a frozen network.
        name: name of the model, for messages.
        backend: backend of ``torch.compile``.

    Returns:
        one for each stack, which tells later whether it succeeded.
    """
    stacks = []
    for path, module in model.named_modules():
        blocks = list(module) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        is_stack = len(blocks) >= LEAST_BLOCKS and len({type(block) for block in blocks}) == 1
        if is_stack and not isinstance(blocks[0], Block) and next(blocks[0].children(), None) is not None:
            stacks.append(CompiledStack(blocks, f"{name} {path}", backend))
    return stacks


def _distance(found: Any, expected: Any) -> float:
    """Return the relative L2 distance of two outputs: a tensor, or a tuple whose first is one."""
    one, other = (output if isinstance(output, Tensor) else output[0] for output in (found, expected))
    return float((one.float() - other.float()).norm() / other.float().norm())
