"""The pixels that a Hugging Face or timm folder was trained on, as its processor's description states them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ConfigError
from mvd_ds.models.formats.foreign import LARGEST_SIDE, colours, flag, number, part, read_object, whole

#: Files that describe a processor, and the object in them that is meant, in the order of choice.
NAMES = (
    ("preprocessor_config.json", ""),
    ("video_preprocessor_config.json", ""),
    ("processor_config.json", "video_processor"),
    ("processor_config.json", "image_processor"),
)
#: Pillow's numbers of the interpolations that are known here.
RESAMPLING = {2: "bilinear", 3: "bicubic"}

Colours = tuple[float, float, float]


class Processor(NamedTuple):
    """The way from decoded frames to the pixels that a network takes."""

    mean: Colours
    """Mean that is subtracted from pixels in [0, 1]."""
    std: Colours
    """Deviation that they are then divided by."""
    resized_px: int | None
    """Short side that frames are resized to, or None where it is not stated."""
    crop_px: int | None
    """Side of the square in their middle that is cut out, or None."""
    interpolation: str
    """bilinear or bicubic."""

    @property
    def is_ours(self) -> bool:
        """True if its mean and deviation are ImageNet's, by which all clips of a training are normalised."""
        pairs = zip(self.mean + self.std, IMAGENET_MEAN + IMAGENET_STD, strict=True)
        return all(abs(theirs - ours) < 1e-4 for theirs, ours in pairs)

    def differences(self, size_px: int) -> list[str]:
        """Return sentences on what views of this package do otherwise: they resize the short side to ``size_px`` and crop."""
        found = []
        if self.crop_px not in (None, size_px):
            found.append(f"its processor cuts squares of {self.crop_px} px, its network is for {size_px}: {size_px} is taken")
        if self.resized_px not in (None, size_px):
            found.append(
                f"its processor resizes the short side to {self.resized_px} px, then crops; here it is resized to {size_px}"
            )
        return found


def read_processor(folder: Path, config: Mapping[str, Any]) -> Processor | None:
    """Return what a folder states about its pixels, None where it states nothing.

    Args:
        folder: folder of a model.
        config: its ``config.json``.

    Raises:
        ConfigError: if a value is of a wrong type or cannot be meant.
    """
    for name, inside in NAMES:
        path = folder / name
        if path.is_file():
            values = read_object(path)
            values = part(values, inside, str(path)) if inside else values
            if values:
                return _processor(values, str(path))
    stated = part(config, "pretrained_cfg", str(folder / "config.json"))
    if "mean" not in stated and "std" not in stated:
        return None
    origin = str(folder / "config.json")
    mean, std = (colours(stated, key, ours, origin) for key, ours in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    return Processor(mean, _positive(std, origin), None, None, "bicubic")


def _processor(values: Mapping[str, Any], origin: str) -> Processor:
    mean, std = colours(values, "image_mean", IMAGENET_MEAN, origin), colours(values, "image_std", IMAGENET_STD, origin)
    if not flag(values, "do_normalize", True, origin):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    # Pixels are multiplied by the factor first; here they are in [0, 1] before mean and deviation.
    factor = 255 * number(values, "rescale_factor", 1 / 255, 1e-6, 1e6, origin)
    factor = factor if flag(values, "do_rescale", True, origin) else 255.0
    if abs(factor - 1) > 1e-6:
        mean, std = ((one / factor, two / factor, three / factor) for one, two, three in (mean, std))
    resized = _side(values, "size", origin) if flag(values, "do_resize", True, origin) else None
    crop = _side(values, "crop_size", origin) if flag(values, "do_center_crop", True, origin) else None
    resample = values.get("resample")
    interpolation = RESAMPLING.get(resample, "bilinear") if isinstance(resample, int) else "bilinear"
    return Processor(mean, _positive(std, origin), resized, crop, interpolation)


def _positive(std: Colours, origin: str) -> Colours:
    if min(std) <= 0:
        raise ConfigError(f"{origin}: the deviation of each colour has to be above 0, got {std}")
    return std


def _side(values: Mapping[str, Any], key: str, origin: str) -> int | None:
    """Return a side that is a number, or an object with ``shortest_edge`` or with equal ``height`` and ``width``."""
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        return whole(values, key, 1, LARGEST_SIDE, origin)
    names = [name for name in ("shortest_edge", "height", "width") if value.get(name) is not None]
    sides = {whole(value, name, 1, LARGEST_SIDE, f"{origin}: {key}") for name in names}
    return sides.pop() if len(sides) == 1 else None
