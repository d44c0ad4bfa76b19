"""Checkpoint folders of our runs (ZeRO-0 to 3): fp32 weights or their moving average put together, without DeepSpeed."""

from __future__ import annotations

from pathlib import Path

from mvd_ds.config import ConfigError
from mvd_ds.files import one_line
from mvd_ds.models.formats.containers import Stored
from mvd_ds.models.formats.foreign import SHOWN, part, read_object, whole
from mvd_ds.models.formats.zero_shards import AVERAGE, MASTER, ZeroShards

MANIFEST_NAME = "manifest.json"


def find_checkpoint(path: Path) -> Path | None:
    """Return the folder of a step, given itself, its run or its ``checkpoints`` (then the latest); or None."""
    for folder in (path, path / "checkpoints"):
        if (folder / "latest").is_file():
            name = (folder / "latest").read_bytes()[:200].decode("utf-8", "replace").strip()
            if Path(name).name != name or not name:
                raise ConfigError(f"{folder / 'latest'}: it takes the name of a folder beside it, got {one_line(name, SHOWN)}")
            return folder / name
    return path if (path / MANIFEST_NAME).is_file() else None


def read_checkpoint_folder(folder: Path, average: bool = False) -> Stored:
    """Return fp32 weights of a checkpoint, and its recipe as ``config``.

    Args:
        folder: folder of one step.
        average: take the moving average in place of the weights.

    Raises:
        ConfigError: if files are missing or have another size, do not fit each other, or there is no average.
    """
    manifest = read_object(folder / MANIFEST_NAME)
    origin = str(folder / MANIFEST_NAME)
    files, recipe = part(manifest, "files", origin), part(manifest, "recipe", origin)
    step = whole(manifest, "step", 0, 2**62, origin, least=0)
    for name in files:
        size = whole(part(files, name, origin), "size", 0, 2**62, f"{origin}: {one_line(name, SHOWN)}", least=0)
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise ConfigError(f"{folder / name}: is missing or has another size than written ({size} bytes)")
    shards = ZeroShards(folder, files)
    kind = AVERAGE if average else MASTER
    if kind not in shards.kinds:
        raise ConfigError(f"{folder}: holds no moving average: the run had no optimizer.ema_decay")
    tensors = {name: shards.whole(kind, name) for name in shards.shapes}
    config = {"format": "mvd_ds", "version": 1, "recipe": recipe, "step": step}
    what = "moving average" if average else "fp32 masters"
    note = f"put together the {what} of step {step} from {shards.world} ranks of ZeRO-{shards.stage}"
    unlike = "" if average or AVERAGE not in shards.kinds else "; the moving average of them is in the run's folder model"
    return Stored(tensors, config, [note + unlike])
