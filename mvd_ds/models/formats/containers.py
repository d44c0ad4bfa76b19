"""Readers of PyTorch files, safetensors files and folders, and Hugging Face folders. No pickled code is ever executed."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.files import describe_foreign, one_line
from mvd_ds.models.formats.foreign import SHOWN, parse_object, part, read_object, require_file

WEIGHTS_NAME, INDEX_NAME, PICKLED_NAME, CONFIG_NAME = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "config.json",
)
#: Learned prompts in a folder, which belong to a network elsewhere.
PROMPTS_NAME = "prompts.safetensors"
#: Keys under which training scripts save the model, in the order of choice.
WRAPPERS = ("model", "module", "state_dict", "ema_encoder", "target_encoder", "encoder")
#: Put before names by compilation.
COMPILED = "_orig_mod."
#: Put before every name by data parallelism and by classes around a network.
PREFIXES = ("module.", "model.", "backbone.")
#: Names that stand beside a prefix and stay as they are.
BESIDE = {"backbone.": ("cls_head.", "data_preprocessor.")}
#: The class that a file would build, or what else stopped it, in torch's messages.
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
            header = read_object(beside)
        return without_prefixes(tensors, header, [])
    return unwrap(load_pickled(path), str(path))


def model_of(folder: Path) -> Path:
    """Return the model folder of a run's folder, and any other path as it is."""
    return folder / "model" if (folder / "model").is_dir() else folder


def _open_folder(path: Path) -> Stored:
    if not (path / CONFIG_NAME).is_file():
        raise ConfigError(
            f"{path}: there is no file {path / CONFIG_NAME}; give a model folder, a checkpoint folder or a weights file"
        )
    config = read_object(path / CONFIG_NAME)
    if (path / WEIGHTS_NAME).is_file():
        return without_prefixes(read_safetensors(path / WEIGHTS_NAME)[0], config, [])
    if (path / INDEX_NAME).is_file():
        tensors: dict[str, Tensor] = {}
        for name in _shards(path / INDEX_NAME):
            tensors |= read_safetensors(path / name)[0]
        return without_prefixes(tensors, config, [f"joined the shards that {INDEX_NAME} lists"])
    if (path / PICKLED_NAME).is_file():
        stored = unwrap(load_pickled(path / PICKLED_NAME), str(path / PICKLED_NAME))
        return stored._replace(config=config)
    if (path / PROMPTS_NAME).is_file():
        raise ConfigError(f"{path}: holds prompts, and no network; give the weights that they were learned on")
    raise ConfigError(f"{path}: has neither {WEIGHTS_NAME}, {INDEX_NAME} nor {PICKLED_NAME}")


def _shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists; they have to be beside it.

    Raises:
        ConfigError: if a name is none of a file in the same folder.
    """
    listed = part(read_object(index), "weight_map", str(index))
    if not listed:
        raise ConfigError(f"{one_line(index)}: weight_map: it lists no tensors")
    for name in listed.values():
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise ConfigError(f"{one_line(index)}: weight_map: it takes names of files beside it, got {one_line(name, SHOWN)}")
    return sorted(set(listed.values()))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a safetensors file, and the ``config`` in its header.

    Raises:
        ConfigError: if it is not such a file.
    """
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("config", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"{one_line(path)}: is not a readable safetensors file: {seems_to_be(path) or one_line(error, 200)}"
        ) from None
    return tensors, parse_object(header, f"{path}: the description in its header")


def seems_to_be(path: Path) -> str:
    """Return ``it is ...`` for a file that is none of weights: a git-LFS pointer, a web page, text, a video; else nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return ""
    if not head:
        return "it is empty"
    if head.startswith((b"PK", b"\x80")):  # what torch writes: it is damaged, and the reader says how
        return ""
    seems = describe_foreign(head)
    if not seems and b"\0" not in head:
        return "it is a text file"
    return f"it is {seems}" if seems and seems != "binary data" else ""


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
    require_file(path)
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        text = str(error)
        found = UNREADABLE_CLASS.search(text)
        if found is None:
            reason = REASON.search(text)
            line = seems_to_be(path) or (one_line(reason.group(1), 200) if reason else "it is damaged")
            raise ConfigError(f"{one_line(path)}: is not a readable PyTorch file: {line}") from None
        raise ConfigError(
            f"{path}: refused: reading it would run pickled code ({found.group(1)}); save only its tensors, with "
            "torch.save(model.state_dict()) or safetensors, where you trust the file"
        ) from None
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        OverflowError,
        AssertionError,
        RecursionError,
        MemoryError,
    ) as error:
        # The first sentence: torch goes on with advice for its own developers.
        line = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        line = seems_to_be(path) or one_line(line, 200)
        raise ConfigError(f"{one_line(path)}: is not a readable PyTorch file: {line}") from None


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
    others = [one_line(name, SHOWN) for name, value in content.items() if not isinstance(value, Tensor)]
    if not tensors or others:
        what = f"{', '.join(others[:4])} are not" if tensors else f"it has {', '.join(others[:6]) or 'nothing'}, and"
        raise ConfigError(f"{origin}: holds no state dict: {what} tensors; expected tensors by name, alone or under {WRAPPERS}")
    return without_prefixes(tensors, {}, notes)


def without_prefixes(tensors: dict[str, Tensor], config: dict[str, Any], notes: list[str]) -> Stored:
    """Return tensors without the prefixes that all names share, in whatever order they come.

    ``torch.compile`` may wrap single modules, too, so ``_orig_mod.`` goes wherever it stands in a name. A class head of
    mmaction2 stands beside its ``backbone.``.
    """
    taken: list[str] = []
    if any(COMPILED in name for name in tensors):
        taken.append(COMPILED)
        tensors = {name.replace(COMPILED, ""): value for name, value in tensors.items()}
    while tensors:
        prefix = next(
            (word for word in PREFIXES if all(name.startswith((word, *BESIDE.get(word, ()))) for name in tensors)), None
        )
        if prefix is None or not any(name.startswith(prefix) for name in tensors):
            break
        taken.append(prefix)
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return Stored(tensors, config, notes + [f"took the prefix '{prefix}' off all names" for prefix in taken])


def _article(content: Any) -> str:
    name = type(content).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
