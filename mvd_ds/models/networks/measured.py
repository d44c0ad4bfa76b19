"""The cost of a network that another library builds: operations and memory of a forward pass, counted without data."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class ForwardCost(NamedTuple):
    """The cost of one forward pass for one input."""

    flops: int
    """Operations, 2 per multiply-accumulate of matrix products and convolutions."""
    peak_bytes: int
    """Bytes of everything that is made and alive at once, as eager torch frees it, in fp32; without input, weights, and what the
    kernels of convolutions take for themselves (on a CPU 0.4 times as much again for an EfficientNet)."""


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside of it and not yet forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in given | self.known:
                storage = tensor.untyped_storage()
                self.known.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return output

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    """Stands for a fused kernel, which never holds the scores that its arithmetic has on the meta device."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, _, value = (args + tuple((kwargs or {}).values()))[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def forward_cost(module: nn.Module, shape: tuple[int, ...]) -> ForwardCost:
    """Return the cost of a forward pass of ``module``, which is moved to the meta device, for one input of ``shape``."""
    with torch.device("meta"):
        module.to("meta")
        with FlopCounterMode(display=False) as counter:
            module(torch.zeros(shape))
        frame = torch.zeros(shape)
        with _Live() as live, _FusedAttention():
            module(frame)
    return ForwardCost(counter.get_total_flops(), live.peak)
