"""Readers of the files that hold tensors: PyTorch files, safetensors files and folders, Hugging Face folders. No pickled code is ever executed."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvd_ds.config import ConfigError

WEIGHTS_NAME, INDEX_NAME, PICKLED_NAME, CONFIG_NAME = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "config.json",
)
#: Where a training script keeps the model inside what it saves, in the order of choice.
WRAPPERS = ("model", "module", "state_dict")
#: What data parallelism and compilation put before every name.
PREFIXES = ("module.", "_orig_mod.")
#: Where torch says which class a file would build, or what else stopped it.
UNREADABLE_CLASS = re.compile(r"GLOBAL\s+([\w.]+)")
REASON = re.compile(r"WeightsUnpickler error: (.*)")


class Stored(NamedTuple):
    """Tensors as a file has them.

    Attributes:
        tensors: by name.
        config: what ``config.json`` or the header of the file says; empty where there is none.
        notes: what was unpacked, for the log.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    notes: list[str]


def open_stored(path: Path) -> Stored:
    """Return the tensors of a file or a folder.

    Raises:
        ConfigError: if there is nothing readable, or it can only be read by executing code.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file or folder")
    if path.suffix == ".safetensors":
        tensors, header = read_safetensors(path)
        beside = path.with_name(CONFIG_NAME)
        if not header and beside.is_file():
            header = read_json(beside)
        return Stored(tensors, header, [])
    return unwrap(load_pickled(path), str(path))


def _open_folder(path: Path) -> Stored:
    if not (path / CONFIG_NAME).is_file():
        raise ConfigError(
            f"{path}: there is no file {path / CONFIG_NAME}; give a model folder, a checkpoint folder or a weights file"
        )
    config = read_json(path / CONFIG_NAME)
    if (path / WEIGHTS_NAME).is_file():
        return Stored(read_safetensors(path / WEIGHTS_NAME)[0], config, [])
    if (path / INDEX_NAME).is_file():
        tensors: dict[str, Tensor] = {}
        for name in sorted(set(read_json(path / INDEX_NAME).get("weight_map", {}).values())):
            tensors |= read_safetensors(path / name)[0]
        return Stored(tensors, config, [f"joined the shards that {INDEX_NAME} lists"])
    if (path / PICKLED_NAME).is_file():
        stored = unwrap(load_pickled(path / PICKLED_NAME), str(path / PICKLED_NAME))
        return stored._replace(config=config)
    raise ConfigError(f"{path}: has neither {WEIGHTS_NAME}, {INDEX_NAME} nor {PICKLED_NAME}")


def read_json(path: Path) -> dict[str, Any]:
    """Return an object from a JSON file.

    Raises:
        ConfigError: if it cannot be read or is something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: is not JSON: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    return values


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a safetensors file, and the ``config`` in its header.

    Raises:
        ConfigError: if it is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("config", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: is not a readable safetensors file: {error}") from None


def load_pickled(path: Path, harmless: tuple[Any, ...] = (), mapped: bool = False) -> Any:
    """Return what ``torch.save`` wrote, read with ``weights_only``: tensors, plain containers, a ``Namespace``.

    Args:
        path: the file.
        harmless: further classes that may be built: each a class, or (class, name in the file).
        mapped: map the file instead of reading it; bytes are read when a tensor is used.

    Raises:
        ConfigError: if it is no such file, or names another class; that class is named and nothing of it is executed.
    """
    # Scripts of MAE and VideoMAE keep their arguments beside the weights; a Namespace only holds values.
    allowed = [argparse.Namespace, *harmless]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        text = str(error)
        found = UNREADABLE_CLASS.search(text)
        if found is None:
            reason = REASON.search(text)
            raise ConfigError(
                f"{path}: is not a readable PyTorch file: {reason.group(1) if reason else 'it is damaged'}"
            ) from None
        raise ConfigError(
            f"{path}: refused: reading it would run pickled code ({found.group(1)}); save only its tensors, with "
            "torch.save(model.state_dict()) or safetensors, where you trust the file"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        # The first sentence: torch goes on with advice for its own developers.
        line = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise ConfigError(f"{path}: is not a readable PyTorch file: {line}") from None


def unwrap(content: Any, origin: str) -> Stored:
    """Return the state dict inside what a training script saved, without prefixes that all names share.

    Raises:
        ConfigError: if there is none.
    """
    notes: list[str] = []
    if not isinstance(content, Mapping):
        raise ConfigError(f"{origin}: holds {_article(content)}, not tensors by name")
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            notes.append(f"took '{wrapper}' of {', '.join(sorted(map(str, content)))}")
            content = content[wrapper]
            break
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if not tensors or others:
        what = f"{', '.join(others[:4])} are not" if tensors else f"it has {', '.join(others[:6]) or 'nothing'}, and"
        raise ConfigError(f"{origin}: holds no state dict: {what} tensors; expected tensors by name, alone or under {WRAPPERS}")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            notes.append(f"took the prefix '{prefix}' off all names")
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return Stored(tensors, {}, notes)


def _article(content: Any) -> str:
    name = type(content).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
