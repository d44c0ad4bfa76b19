"""A model that takes no memory yet: its structure, and how any part of it gets its weights.

Built whole, it is an ordinary module. A model too large for that is built part by part: the engine fills one
module, hands its values to all processes in shards, and forgets them before the next. Both give the same values, because
weights are a function of a parameter's name: of the seed, or of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
#: Gives the module of this name its weights, in place; the module has only parameters of its own, fp32 on the CPU.
Fill = Callable[[str, nn.Module], None]


class Blueprint(Generic[Model]):
    """A plan from which a model can be built.

    Args:
        construct: builds the module; called on the meta device, where weights cost nothing.
        fill: gives each of its modules their weights.

    Attributes:
        structure: the module without memory: names, shapes, buffers.
    """

    def __init__(self, construct: Callable[[], Model], fill: Fill) -> None:
        self.construct, self.fill = construct, fill
        self.structure = self.skeleton()

    def skeleton(self) -> Model:
        """Return another structure: parameters on the meta device, fixed tables in memory."""
        with torch.device("meta"):
            return self.construct()

    def build(self) -> Model:
        """Return the whole model, fp32, on the CPU."""
        model = self.skeleton()
        for _ in self.parts(model):
            pass
        return model

    def parts(self, skeleton: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        """Fill the modules of ``skeleton`` that have parameters of their own, each when it is asked for.

        Yields:
            (name, module); what the caller does with its parameters before it asks for the next is the caller's choice.
        """
        modules = list(skeleton.named_modules())
        # Modules with children come after them: engines take all parameters below a module, and pass by those they have.
        leaves = [(name, module) for name, module in modules if next(module.children(), None) is None]
        parents = [(name, module) for name, module in reversed(modules) if next(module.children(), None) is not None]
        for name, module in leaves + parents:
            own = dict(module.named_parameters(recurse=False))
            for key, parameter in own.items():
                empty = torch.empty_like(parameter, device="cpu")
                setattr(module, key, nn.Parameter(empty, requires_grad=parameter.requires_grad))
            if own:
                with torch.no_grad():
                    self.fill(name, module)
                yield name, module

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.structure.parameters())
