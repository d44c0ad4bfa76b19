"""Checkpoint folders of our runs (ZeRO-0 to 3): fp32 weights or their moving average put together, without DeepSpeed."""

from __future__ import annotations

from pathlib import Path

from mvd_ds.config import ConfigError
from mvd_ds.models.formats.containers import Stored, read_json
from mvd_ds.models.formats.zero_shards import AVERAGE, MASTER, ZeroShards

MANIFEST_NAME = "manifest.json"


def find_checkpoint(path: Path) -> Path | None:
    """Return the folder of a step, given itself, its run or its ``checkpoints`` (then the latest); or None."""
    for folder in (path, path / "checkpoints"):
        if (folder / "latest").is_file():
            return folder / (folder / "latest").read_text(encoding="utf-8").strip()
    return path if (path / MANIFEST_NAME).is_file() else None


def read_checkpoint_folder(folder: Path, average: bool = False) -> Stored:
    """Return fp32 weights of a checkpoint, and its recipe as ``config``.

    Args:
        folder: of one step.
        average: take the moving average in place of the weights.

    Raises:
        ConfigError: if files are missing or have another size, do not fit each other, or there is no average.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    files = manifest.get("files", {})
    for name, entry in files.items():
        size = entry["size"]
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise ConfigError(f"{folder / name}: is missing or has another size than written ({size} bytes)")
    shards = ZeroShards(folder, files)
    kind = AVERAGE if average else MASTER
    if kind not in shards.kinds:
        raise ConfigError(f"{folder}: holds no moving average: the run had no optimizer.ema_decay")
    tensors = {name: shards.whole(kind, name) for name in shards.shapes}
    config = {"format": "mvd_ds", "version": 1, "recipe": manifest["recipe"], "step": manifest["step"]}
    what = "moving average" if average else "fp32 masters"
    note = f"put together the {what} of step {manifest['step']} from {shards.world} ranks of ZeRO-{shards.stage}"
    return Stored(tensors, config, [note])
