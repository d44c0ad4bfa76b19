"""Networks of timm by name, and their weights from files of timm's or of the projects that they come from."""

from __future__ import annotations

import difflib
import inspect
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError
from mvd_ds.models.formats.containers import open_stored
from mvd_ds.models.formats.strict import require_fit

logger = logging.getLogger(__name__)


def create_network(name: str, size_px: int, seed: int, origin: str) -> nn.Module:
    """Return a network of timm for frames of ``size_px``, its weights drawn from ``seed``.

    Raises:
        ConfigError: if timm does not know it, or cannot build it for such frames.
    """
    import timm

    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3)) or "those of timm.list_models()"
        raise ConfigError(f"{origin}.network: timm has no network '{name}'; near it are {near}")
    # Which keywords a network takes is only known by trying; all of them leave the weights alone.
    attempts: list[dict[str, Any]] = [{"img_size": size_px}, {}]
    for keywords in attempts:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return timm.create_model(name, pretrained=False, num_classes=0, **keywords)
        except TypeError as error:
            reason = str(error)
        except (ValueError, AssertionError, RuntimeError) as error:
            raise ConfigError(f"{origin}.network: timm cannot build {name} for {size_px} px: {first_line(error)}") from None
    raise ConfigError(f"{origin}.network: timm cannot build {name}: {reason}")


def read_weights(network: nn.Module, weights: str, origin: str) -> dict[str, Tensor]:
    """Return the weights in a file of timm's or of the project that it comes from, which fit but for its class head.

    Args:
        network: the network, which may be without data.
        weights: the file.
        origin: names it in messages.

    Raises:
        ConfigError: if there is no such file, or it does not fit.
    """
    try:
        tensors = dict(open_stored(Path(weights)).tensors)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    module = sys.modules[type(network).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is not None:
        # timm's own conversion of original files; it also resizes learned positions, bicubic.
        options = (
            {"interpolation": "bicubic", "antialias": True} if "interpolation" in inspect.signature(convert).parameters else {}
        )
        try:
            tensors = convert(tensors, network, **options)
        except (KeyError, RuntimeError, ValueError, AttributeError, IndexError) as error:
            raise ConfigError(
                f"{origin} {weights}: timm's {type(network).__name__} cannot convert it: {first_line(error)}"
            ) from None
    own = network.state_dict()
    heads = _head_names(network)
    ignored = [name for name in tensors if name not in own and name.split(".")[0] in heads]
    if ignored:
        logger.info("%s: ignored the class head: %s", origin, ", ".join(ignored))
    found = {name: value for name, value in tensors.items() if name not in ignored}
    require_fit(network, found, f"{origin} {weights}")
    return found


def _head_names(network: nn.Module) -> set[str]:
    stated = (getattr(network, "pretrained_cfg", {}) or {}).get("classifier") or "head"
    names = stated if isinstance(stated, list | tuple) else [stated]
    return {name.split(".")[0] for name in names} | {"head", "head_dist", "classifier"}


def first_line(error: Exception) -> str:
    """Return the first line of what a library says, or the name of the error."""
    return (str(error).splitlines() or [type(error).__name__])[0]
