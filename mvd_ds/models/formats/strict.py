"""Weights into a module: all of them or none, and looked at once they are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError
from mvd_ds.models.formats.reading import is_finite, shorten


def load_strictly(
    module: nn.Module, state_dict: Mapping[str, Tensor], origin: str, name_in_file: Callable[[str], str] = str
) -> None:
    """Copy ``state_dict`` into ``module``, all of it or nothing, and look whether it arrived.

    Args:
        module: the module.
        state_dict: tensors by its names.
        origin: names the file in messages.
        name_in_file: what a tensor is called there.

    Raises:
        ConfigError: as ``require_fit`` and ``copy_strictly``.
    """
    require_fit(module, state_dict, origin, name_in_file)
    copy_strictly(module, state_dict, origin, name_in_file)


def require_fit(
    module: nn.Module, state_dict: Mapping[str, Tensor], origin: str, name_in_file: Callable[[str], str] = str
) -> None:
    """Check that ``state_dict`` is exactly what ``module`` holds; its own tensors may be on the meta device.

    Raises:
        ConfigError: if a name is missing, unexpected, of another shape, or holds a number that is not finite.
    """
    own = module.state_dict()
    common = [name for name in own if name in state_dict]
    faults = {
        "missing": [name_in_file(name) for name in own if name not in state_dict],
        "unexpected": [name_in_file(name) for name in state_dict if name not in own],
        "of another shape": [
            f"{name_in_file(name)} {_shapes(state_dict[name], own[name])}"
            for name in common
            if state_dict[name].shape != own[name].shape
        ],
        "not finite": [name_in_file(name) for name in common if not is_finite(state_dict[name])],
    }
    found = [f"{len(names)} {kind}: {shorten(names)}" for kind, names in faults.items() if names]
    if found:
        raise ConfigError(f"{origin}: weights do not fit {type(module).__name__}: {'; '.join(found)}")


def copy_strictly(
    module: nn.Module, state_dict: Mapping[str, Tensor], origin: str, name_in_file: Callable[[str], str] = str
) -> None:
    """Copy weights that fit, and look whether they arrived: strict loading has been seen to leave biases at zero.

    Raises:
        ConfigError: if a tensor of the module does not equal the file's afterwards.
    """
    module.load_state_dict(dict(state_dict), strict=True)
    lost = [name_in_file(name) for name, value in module.state_dict().items() if not _equal(value, state_dict[name])]
    if lost:
        raise ConfigError(f"{origin}: {len(lost)} tensors did not arrive as they are in the file: {shorten(lost)}")


def _equal(value: Tensor, stored: Tensor) -> bool:
    return torch.equal(value.cpu(), stored.to("cpu", value.dtype))


def _shapes(stored: Tensor, wanted: Tensor) -> str:
    hint = " (transposed)" if tuple(stored.shape) == tuple(wanted.shape)[::-1] else ""
    return f"{tuple(stored.shape)} instead of {tuple(wanted.shape)}{hint}"
