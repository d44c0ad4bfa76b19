"""Finding, on a machine without a GPU, where the host would wait for one."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
#: A number, or a shape, that the host takes from a tensor.
ANSWERS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__", "__contains__")
#: Tensors of numbers that the host has.
CONSTANTS = ("tensor", "as_tensor", "new_tensor", "scalar_tensor")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Questions(TorchFunctionMode):
    """Context that notes every call which would wait if its tensors were on a GPU, whatever device they are on.

    Attributes:
        asked: name of the function, and the line that called it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def watch(self, accelerator: Any) -> None:
        """Note calls of ``accelerator.synchronize``, too."""
        accelerator.synchronize = lambda *_: self._note("synchronize")

    def _note(self, name: str) -> None:
        """Called by what stands in for the function of that name."""
        caller = traceback.extract_stack(limit=3)[0]
        self.asked.append(f"{name} at {caller.filename}:{caller.lineno}")

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in ANSWERS + CONSTANTS:
            self._note(name)
        return function(*arguments, **(options or {}))


class Copies(TorchDispatchMode):
    """Context that refuses copies between the host and a GPU which the host waits for.

    Asking a fake tensor for a number, or for a shape that depends on numbers, is an error in itself.
    """

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        result = function(*arguments, **options)
        if function in COPIES:
            places = {value.device.type for value in (*arguments, result) if isinstance(value, Tensor)}
            if len(places) > 1 and not (options.get("non_blocking") or (len(arguments) > 2 and arguments[2])):
                raise AssertionError(f"{function} between {sorted(places)} waits")
        return result


def on_fake_gpu(network: nn.Module, mode: FakeTensorMode, dtype: torch.dtype) -> nn.Module:
    """``network`` with its parameters and tables on a GPU that is not there, where only shapes are computed."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = mode.from_tensor(parameter).detach().to(GPU, dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, table in module._buffers.items():
            if table is not None:
                fake = mode.from_tensor(table)
                module._buffers[name] = fake.to(GPU, dtype) if fake.is_floating_point() else fake.to(GPU)
    return network


def fake_batch(batch: Any, mode: FakeTensorMode) -> Any:
    """A batch as the loader gives it, on the host, without values; nothing is flipped, which the host decides by itself."""

    def fake(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fake(inner) for key, inner in value.items()}
        return mode.from_tensor(value) if isinstance(value, Tensor) else value

    class Unflipped:
        def any(self) -> bool:
            return False

    fakes = {name: fake(value) for name, value in batch._asdict().items() if name != "flip"}
    return batch._replace(**fakes, flip=Unflipped())
