"""The index of a cache of targets: what it holds, of which views, made from what; it is written when all files are whole.

``index.json`` and ``targets-00000.safetensors``, ...: each file has the rows of ``clips_per_file`` clips, one array for every
output of a teacher. Clip ``video * clips_per_video + c`` has a row for each of its crops, mirrored and not.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.files import read_json, write_json

INDEX = "index.json"
#: Number type of a store in memory; NumPy has no bf16, whose bits travel as int16.
NUMPY_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "int16", "int8": "int8"}
_FILE_TYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "I8"}
SCALE = ".scale"
"""Ending of the name of the scales of an array in int8."""


class StoredArray(NamedTuple):
    """One array of a file: the rows of an output, or their scales."""

    shape: tuple[int, ...]
    """Shape of a row."""
    store: str
    """Number type, a key of ``NUMPY_TYPES``."""

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row."""
        return math.prod(self.shape) * np.dtype(NUMPY_TYPES[self.store]).itemsize

    @property
    def file_type(self) -> str:
        """Return the name of its number type in a safetensors file."""
        return _FILE_TYPES[self.store]


class StoredOutput(NamedTuple):
    """An output of a teacher as it is kept."""

    shape: tuple[int, ...]
    """Shape of a row: (N, D) of features, (D,) of a summary, (N,) of attention."""
    store: str
    """Number type, a key of ``NUMPY_TYPES``."""
    given: str
    """Type in which the teacher gives it, which readers turn it back to: ``float32`` or ``bfloat16``."""
    groups: int = 1
    """Parts of the last axis that have an int8 scale of their own: the blocks, or queries, keys and values."""

    def arrays(self, name: str) -> dict[str, StoredArray]:
        """Return the arrays of a file that hold the output ``name``."""
        scale = {name + SCALE: StoredArray((*self.shape[:-1], self.groups), "fp32")} if self.store == "int8" else {}
        return {name: StoredArray(self.shape, self.store), **scale}


class CacheIndex(NamedTuple):
    """The description of a whole cache."""

    facts: dict[str, Any]
    """Everything that decides the numbers, by setting; ``runs.caching.match`` compares it with a run."""
    outputs: dict[str, StoredOutput]
    clips: int
    crops: int
    flips: tuple[bool, ...]
    """The mirrorings of each crop, in order: not, or yes, or both."""
    clips_per_file: int
    errors: dict[str, dict[str, float]]
    """Error of the stored numbers by output: ``relative_rms`` over all, and the largest ``absolute`` one."""
    faults: dict[int, str]
    """Reason for which a video has no targets, by its index."""
    mark: str = ""
    """Digest of ``facts`` that every file carries, with its number, so that none of another cache is taken for one of this."""

    @property
    def arrays(self) -> dict[str, StoredArray]:
        """Return all arrays of a file by name."""
        return {key: array for name, output in self.outputs.items() for key, array in output.arrays(name).items()}

    @property
    def views(self) -> int:
        """Return the rows of a clip."""
        return self.crops * len(self.flips)

    @property
    def files(self) -> int:
        """Return the number of files."""
        return -(-self.clips // self.clips_per_file)

    def clips_of(self, file: int) -> range:
        """Return the clips of a file."""
        return range(file * self.clips_per_file, min((file + 1) * self.clips_per_file, self.clips))

    def rows_of(self, file: int) -> int:
        """Return the number of rows of a file."""
        return len(self.clips_of(file)) * self.views

    def row(self, clip: int, crop: int, flip: bool) -> tuple[int, int]:
        """Return the file that holds a view of a clip, and its row there."""
        file, place = divmod(clip, self.clips_per_file)
        return file, (place * self.crops + crop) * len(self.flips) + self.flips.index(flip)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON keeps it."""
        outputs = {name: {**output._asdict(), "shape": list(output.shape)} for name, output in self.outputs.items()}
        return {**self._asdict(), "outputs": outputs, "flips": list(self.flips)}

    @property
    def clip_bytes(self) -> int:
        """Return the bytes of all views of a clip."""
        return self.views * sum(array.row_bytes for array in self.arrays.values())


def write_index(folder: Path, index: CacheIndex, name: str = INDEX) -> None:
    """Write the index of a folder whose files are all there, or under another ``name`` that of one that is being filled.

    Raises:
        OSError: if the disk refuses.
    """
    write_json(folder / name, index.as_json())


def read_index(folder: Path, name: str = INDEX) -> CacheIndex:
    """Return the index of a whole cache, or what ``write_index`` wrote under another ``name``.

    Raises:
        ConfigError: in one line, if there is none or it cannot be read.
    """
    path = folder / name
    if not path.is_file():
        raise ConfigError(f"targets.cache {folder}: has no {name}; run `mvd_ds cache-targets` to its end, which writes it")
    values = read_json(path)
    try:
        outputs = {
            name: StoredOutput(tuple(each["shape"]), each["store"], each["given"], each["groups"])
            for name, each in values.pop("outputs").items()
        }
        faults = {int(video): reason for video, reason in values.pop("faults").items()}
        return CacheIndex(outputs=outputs, faults=faults, flips=tuple(values.pop("flips")), **values)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(f"{path}: is no index of cached targets; make the cache again in another folder") from None
