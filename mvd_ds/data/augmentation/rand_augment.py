"""RandAugment over a clip: the same operations with the same strengths on every frame, drawn from the sample's key.

Source: RandAugment (Cubuk et al. 2019) with timm's "increasing" operations, as MVD's ``rand-m7-n4-mstd0.5-inc1``; the
operations themselves are Pillow's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mvd_ds.config import RandAugmentSettings

FILL = (128, 128, 128)
"""Colour that fills what an operation moves in from outside the frame. Source: timm."""
STRONGEST = 10.0
Operation = Callable[[Image.Image], Image.Image]
Maker = Callable[[float, float, tuple[int, int]], Operation]


def rand_augment(frames: np.ndarray, settings: RandAugmentSettings, generator: np.random.Generator) -> np.ndarray:
    """Apply randomly drawn operations to ``frames`` uint8 (T, H, W, C); the shape stays.

    Every draw is made whether it is used or not, so that the numbers of what follows do not depend on it.
    """
    size = (frames.shape[2], frames.shape[1])
    chosen = []
    for _ in range(settings.operations):
        name = NAMES[int(generator.integers(len(NAMES)))]
        applied, sign = generator.random() < settings.probability, 1.0 if generator.random() < 0.5 else -1.0
        magnitude = float(np.clip(generator.normal(settings.magnitude, settings.magnitude_std), 0.0, STRONGEST))
        if applied:
            chosen.append(OPERATIONS[name](magnitude / STRONGEST, sign, size))
    if not chosen:
        return frames
    return np.stack([_apply(chosen, frame) for frame in frames])


def _apply(operations: list[Operation], frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame)
    for operation in operations:
        image = operation(image)
    return np.asarray(image)


def _affine(coefficients: tuple[float, ...]) -> Operation:
    def move(image: Image.Image) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC, fillcolor=FILL)

    return move


def _rotate(strength: float, sign: float, size: tuple[int, int]) -> Operation:
    """Rotate by up to 30 degrees."""
    return lambda image: image.rotate(sign * strength * 30.0, Image.Resampling.BICUBIC, fillcolor=FILL)


def _shear_x(strength: float, sign: float, size: tuple[int, int]) -> Operation:
    """Shear by up to 0.3."""
    return _affine((1, sign * strength * 0.3, 0, 0, 1, 0))


def _shear_y(strength: float, sign: float, size: tuple[int, int]) -> Operation:
    return _affine((1, 0, 0, sign * strength * 0.3, 1, 0))


def _translate_x(strength: float, sign: float, size: tuple[int, int]) -> Operation:
    """Shift by up to 0.45 of the width."""
    return _affine((1, 0, sign * strength * 0.45 * size[0], 0, 1, 0))


def _translate_y(strength: float, sign: float, size: tuple[int, int]) -> Operation:
    return _affine((1, 0, 0, 0, 1, sign * strength * 0.45 * size[1]))


def _posterize(strength: float, sign: float, size: tuple[int, int]) -> Operation:
    """Keep from 4 bits a colour down to none: black, which Pillow itself refuses."""
    bits = 4 - int(strength * 4)
    return lambda image: ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)


def _solarize(strength: float, sign: float, size: tuple[int, int]) -> Operation:
    """Invert pixels that are brighter than a threshold from 256 down to 0."""
    threshold = 256 - min(256, int(strength * 256))
    return lambda image: ImageOps.solarize(image, threshold)


def _solarize_add(strength: float, sign: float, size: tuple[int, int]) -> Operation:
    """Add up to 110 to pixels that are darker than 128."""
    added = min(128, int(strength * 110))
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return lambda image: image.point(table * 3)


def _enhance(enhancer: Callable[[Image.Image], Any]) -> Maker:
    """Multiply colour, contrast, brightness or sharpness by 0.1 to 1.9."""

    def make(strength: float, sign: float, size: tuple[int, int]) -> Operation:
        factor = max(0.1, 1.0 + sign * strength * 0.9)
        return lambda image: enhancer(image).enhance(factor)

    return make


OPERATIONS: dict[str, Maker] = {
    "auto_contrast": lambda strength, sign, size: ImageOps.autocontrast,
    "equalize": lambda strength, sign, size: ImageOps.equalize,
    "invert": lambda strength, sign, size: ImageOps.invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
"""Type of the operations: (strength 0 to 1, sign +-1, (width, height)) -> the function that changes a frame."""
NAMES = tuple(OPERATIONS)
