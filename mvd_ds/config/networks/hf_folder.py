"""Folders of transformers: where one lies on this machine, and the sizes that its ``config.json`` states.

Nothing is downloaded here and no code of a folder runs: a name is looked up in the Hugging Face cache of the user.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvd_ds.files import ConfigError, one_line, read_json

#: The names under which configs of transformers state a size, in the order of choice.
SIZE_NAMES = {
    "embed_dim": ("hidden_size",),
    "depth": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "patch_px": ("patch_size",),
    "tubelet_frames": ("tubelet_size",),
}
#: Sizes that folders leave out where they are those of ViT-B. Source: the configs of transformers 5.24.
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
DEFAULTS: dict[str, dict[str, int]] = {
    "clip_vision_model": {**_BASE, "patch_size": 32},
    "siglip_vision_model": {**_BASE, "patch_size": 16},
    "siglip2_vision_model": {**_BASE, "patch_size": 16},
}
#: Families whose clips are videos though their configs state no tubelet.
VIDEO_TYPES = ("vjepa2", "videomae", "vivit")


def find_folder(name: str) -> Path:
    """Return the folder of a network: a path, or the snapshot of a name such as ``facebook/dinov2-base`` in the user's cache.

    Raises:
        ConfigError: in one line, if there is none, with the command that fetches it.
    """
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"hf:{one_line(name)}: the folder has no config.json; give a model folder of transformers")
    cache = cache_folder()
    repository = cache / f"models--{name.replace('/', '--')}"
    if name.count("/") <= 1 and repository.is_dir():
        main = repository / "refs" / "main"
        commit = main.read_text().strip() if main.is_file() else ""
        snapshot = repository / "snapshots" / commit
        if commit and (snapshot / "config.json").is_file():
            return snapshot
    raise ConfigError(
        f"hf:{one_line(name)}: there is no such folder, and no whole snapshot of it in {one_line(cache)}; nothing is downloaded "
        f"here: fetch it by `hf download {one_line(name)}` (gated networks after `hf auth login`)"
    )


def cache_folder() -> Path:
    """Return the folder in which Hugging Face's tools keep what they download."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def read_config(folder: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a folder that brings no code of its own.

    Raises:
        ConfigError: in one line, if it is no object, asks for code of the folder, or its weights are quantised.
    """
    values = read_json(folder / "config.json")
    origin = one_line(folder)
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}/config.json: is not a JSON object")
    code = sorted(path.name for path in folder.glob("*.py"))
    if "auto_map" in values or code:
        what = f"files {', '.join(code[:3])}" if code else "auto_map in its config.json"
        raise ConfigError(
            f"{origin}: it brings code of its own ({one_line(what, 80)}), and no code of a model folder is ever run here; "
            "take a version that transformers builds itself, or convert its weights"
        )
    if values.get("quantization_config"):
        raise ConfigError(f"{origin}: its weights are quantised; give the folder of the network as it was trained")
    return values


def tower_config(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a ``config.json`` that describes the network of pixels: all of it, or ``vision_config``."""
    inner = values.get("vision_config")
    return inner if isinstance(inner, dict) else values


def stated_sizes(folder: Path) -> dict[str, Any]:
    """Return the settings of an encoder that a folder's ``config.json`` states; what it leaves to defaults is not in it.

    Raises:
        ConfigError: as ``read_config``, or if a size is no positive number.
    """
    whole = read_config(folder)
    values = tower_config(whole)
    kind = values.get("model_type") or f"{whole.get('model_type')}_vision_model"
    values = {**DEFAULTS.get(str(kind), {}), **values}
    found: dict[str, Any] = {}
    for ours, names in SIZE_NAMES.items():
        value = next((values[name] for name in names if values.get(name) is not None), None)
        if isinstance(value, list) and len(set(map(str, value))) == 1:
            value = value[0]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{one_line(folder)}/config.json: {names[0]}: it takes a whole number, got {one_line(value, 40)}")
        found[ours] = value
    is_video = "tubelet_frames" in found or whole.get("model_type") in VIDEO_TYPES
    return {"kind": "video" if is_video else "image", **found}
