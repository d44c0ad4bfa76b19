"""Modules of other libraries as blueprints: their parameters take no memory until they are filled, one module at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from mvd_ds.models.blueprint import Blueprint

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Give modules that are built inside parameters without memory; their fixed tables are real, on the CPU.

    Constructors of other libraries compute their tables from numbers, and on the meta device these would be lost.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        with torch.device("cpu"):
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def deferred(construct: Callable[[], Module], tensors: Callable[[], Mapping[str, Tensor]]) -> Blueprint[Module]:
    """Return the blueprint of a module that another library builds.

    Args:
        construct: builds it.
        tensors: gives its weights by its own names, checked to fit; asked for when the first is wanted. Tables that it keeps
            with its weights (the statistics of batch norms) are among them.
    """

    def skeleton() -> Module:
        with parameters_on_meta():
            module = construct()
        if any(table.is_meta for table in module.buffers()):  # it makes tables where its parameters are
            _take_tables(module, construct)
        for name, part in module.named_modules():
            for key, table in part.named_buffers(name, recurse=False):
                if key.rpartition(".")[2] not in part._non_persistent_buffers_set:
                    table.copy_(tensors()[key])
        return module

    def fill(name: str, module: nn.Module) -> None:
        for key, parameter in module.named_parameters(name, recurse=False):
            parameter.copy_(tensors()[key])

    return Blueprint(skeleton, fill)


def _take_tables(module: Module, construct: Callable[[], Module]) -> None:
    """Give ``module`` the tables of one that is built with memory for its parameters, which are then forgotten."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        whole = construct()
    for name, part in module.named_modules():
        part._buffers.update(whole.get_submodule(name)._buffers)
