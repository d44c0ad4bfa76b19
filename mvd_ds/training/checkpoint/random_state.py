"""State of this process's generators, as plain tensors and numbers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvd_ds.config import ConfigError


def random_state() -> dict[str, Any]:
    """Return the state of this process's generators. Keyed randomness does not use them; what users add may."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, extra = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), extra],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set the generators to what ``random_state`` returned in this process."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, extra = state["python"]
    random.setstate((version, tuple(internal), extra))


def restore_random_state(state: Any, origin: Path) -> None:
    """Set the generators to a state that was read from a file.

    Raises:
        ConfigError: naming ``origin``, if it is something else.
    """
    try:
        set_random_state(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise ConfigError(f"{origin}: holds no random state: {type(error).__name__}") from None
