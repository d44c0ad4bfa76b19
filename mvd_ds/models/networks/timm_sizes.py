"""The sizes of a network of timm, found by running it on a frame without data."""

from __future__ import annotations

from typing import Any

import torch

from mvd_ds.config import ConfigError
from mvd_ds.models.networks.timm_building import create_network, first_line


@torch.no_grad()
def timm_sizes(name: str, size_px: int, origin: str) -> tuple[dict[str, Any], int]:
    """Return the settings that a teacher of timm has to state, width, patch and grid of its last features, and its blocks.

    Args:
        name: its name in timm.
        size_px: side of the frames that it sees.
        origin: names it in messages.

    Raises:
        ConfigError: if timm does not know it, it gives no feature maps, or does not take such frames.
    """
    with torch.device("meta"):
        network = create_network(name, size_px, 0, origin).eval()
        if not hasattr(network, "forward_intermediates"):
            raise ConfigError(f"{origin}.network: timm's {name} gives no feature maps (forward_intermediates)")
        try:
            frame = torch.zeros(1, 3, size_px, size_px)
            last = network.forward_intermediates(  # type: ignore[operator]
                frame, indices=1, output_fmt="NCHW", intermediates_only=True
            )[-1]
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise ConfigError(f"{origin}.network: timm's {name} does not take {size_px} px: {first_line(error)}") from None
    _, width, rows, columns = last.shape
    sizes = {"embed_dim": width, "patch_px": max(size_px // rows, 1), "feature_grid": (rows, columns)}
    return sizes, len(network.feature_info)  # type: ignore[arg-type]
