"""Films of one clip together: a sheet of rows over time, as one still image or as a moving one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mvd_ds.config import Grid
from mvd_ds.evaluation.pictures import (
    ColourSpace,
    across_frames,
    clip_film,
    heat_film,
    hidden_film,
    matrix_film,
    placed,
    spread,
)

#: What a row shows, and its film.
Sheet = dict[str, np.ndarray]
#: Colours above this percentile of all values are alike: one token of a bad clip must not darken the rest.
BRIGHTEST = 99
CAPTION_PX, GAP_PX = 16, 3
PAPER, INK = (253, 253, 252), (29, 33, 39)


@dataclass
class Observed:
    """What networks did with B clips."""

    clip: Tensor
    """uint8 (B, C, T, H, W)."""
    grid: Grid
    """(t, h, w) of the student's tokens."""
    masked: Tensor | None = None
    """int64 (B, M), the tokens that were predicted."""
    hidden: Tensor | None = None
    """int64 (B, M'), the tokens that the student did not see."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """(B, M) by target."""
    targets: dict[str, Tensor] = field(default_factory=dict)
    """(B, N, D) features of teachers."""
    norms: dict[str, Tensor] = field(default_factory=dict)
    """(B, N), L2 norms of the same before any normalisation."""
    predictions: dict[str, Tensor] = field(default_factory=dict)
    """(B, M, D) by target."""
    reconstruction: Tensor | None = None
    """uint8 (B, C, T, H, W): predicted pixels where tokens are masked, those of the clip elsewhere."""
    features: Tensor | None = None
    """(B, N, D) of the encoder."""
    attention: dict[int, Tensor] = field(default_factory=dict)
    """(B, N) that tokens get, by head."""
    similarity: dict[str, list[Tensor]] = field(default_factory=dict)
    """(t, t) across frames after every block, by network."""


def clip_sheets(seen: Observed) -> list[Sheet]:
    """A sheet for every clip; colours mean the same in all of them."""
    spaces = {name: ColourSpace(seen.targets.get(name, predicted)) for name, predicted in seen.predictions.items()}
    own = ColourSpace(seen.features) if seen.features is not None else None
    highs = {name: float(np.percentile(losses.float().cpu().numpy(), BRIGHTEST)) for name, losses in seen.losses.items()}
    return [_sheet(seen, row, spaces, own, highs) for row in range(len(seen.clip))]


def _sheet(seen: Observed, row: int, spaces: dict[str, ColourSpace], own: ColourSpace | None, highs: dict[str, float]) -> Sheet:
    film = clip_film(seen.clip[row], seen.grid[0])
    sheet = {"clip": film}
    if seen.hidden is not None:
        sheet["what the network sees"] = hidden_film(film, seen.hidden[row], seen.grid)
    if seen.reconstruction is not None:
        sheet["reconstruction"] = clip_film(seen.reconstruction[row], seen.grid[0])
    for name in dict.fromkeys([*seen.losses, *seen.predictions]):
        sheet |= _target_rows(seen, row, name, spaces.get(name), highs.get(name, 1.0))
    if own is not None and seen.features is not None:
        colours = own.colours(seen.features[row].float().cpu().numpy())
        sheet["features, three principal components"] = _film(colours, seen)
    for head, received in seen.attention.items():
        values = received[row].cpu().numpy()
        high = float(np.percentile(values, BRIGHTEST))
        sheet[f"attention of head {head}"] = heat_film(values, seen.grid, film.shape[1], high)
    return sheet


def _target_rows(seen: Observed, row: int, name: str, space: ColourSpace | None, high: float) -> Sheet:
    """Loss, target and prediction of one target, the last two in one colour space."""
    sheet: Sheet = {}
    tokens = int(np.prod(seen.grid))
    assert seen.masked is not None
    if name in seen.losses:
        values = placed(seen.losses[name][row], seen.masked[row], tokens)
        sheet[f"{name}: loss per token, 0 to {high:.2g}"] = heat_film(values, seen.grid, seen.clip.shape[-1], high)
    if name in seen.targets and space is not None:
        sheet[f"{name}: the teacher's features"] = _film(space.colours(seen.targets[name][row].float().cpu().numpy()), seen)
    if name in seen.predictions and space is not None:
        predicted = placed(seen.predictions[name][row], seen.masked[row], tokens)
        sheet[f"{name}: the student's prediction"] = _film(space.colours(predicted), seen)
    return sheet


def _film(colours: np.ndarray, seen: Observed) -> np.ndarray:
    return spread(colours, seen.grid, seen.clip.shape[-1])


def similarity_sheet(similarity: dict[str, list[Tensor]], size_px: int) -> Sheet:
    """A row for every network, an image for every layer: frames against frames."""
    sheet = {}
    for name, layers in similarity.items():
        if layers and len(layers[0]) > 1:
            means = [across_frames(layer) for layer in layers]
            sheet[f"{name}: frames x frames, layers 1 to {len(layers)} (mean {means[0]:.2f} to {means[-1]:.2f})"] = matrix_film(
                layers, size_px
            )
    return sheet


def joined(sheets: list[Sheet]) -> Sheet:
    """Sheets of images, which have one slot each, side by side as if they were the frames of one clip."""
    return {name: np.concatenate([sheet[name] for sheet in sheets]) for name in sheets[0]}


def still(sheet: Sheet, cell_px: int) -> np.ndarray:
    """uint8 (H, W, 3): captions above rows, slots from left to right."""
    columns = max(len(film) for film in sheet.values())
    width = max(columns * (cell_px + GAP_PX) + GAP_PX, _widest(sheet))
    height = len(sheet) * (CAPTION_PX + cell_px + GAP_PX) + GAP_PX
    page = Image.new("RGB", (width, height), PAPER)
    for place, (name, film) in enumerate(sheet.items()):
        top = place * (CAPTION_PX + cell_px + GAP_PX) + GAP_PX
        _write(page, name, GAP_PX, top)
        for column, image in enumerate(film):
            page.paste(_sized(image, cell_px), (GAP_PX + column * (cell_px + GAP_PX), top + CAPTION_PX))
    return np.asarray(page)


def moving(sheet: Sheet, cell_px: int) -> list[np.ndarray]:
    """uint8 (H, W, 3) for each slot: rows of the sheet side by side, as many as look square. Sides are even, as video wants."""
    columns = max(round((1.6 * len(sheet)) ** 0.5), 1)
    rows = -(-len(sheet) // columns)
    cell = max(cell_px, *(_text_width(name) for name in sheet))
    size = (columns * (cell + GAP_PX) + GAP_PX, rows * (CAPTION_PX + cell + GAP_PX) + GAP_PX)
    frames = []
    for slot in range(max(len(film) for film in sheet.values())):
        page = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), PAPER)
        for place, (name, film) in enumerate(sheet.items()):
            left = place % columns * (cell + GAP_PX) + GAP_PX
            top = place // columns * (CAPTION_PX + cell + GAP_PX) + GAP_PX
            _write(page, name, left, top)
            page.paste(_sized(film[min(slot, len(film) - 1)], cell), (left, top + CAPTION_PX))
        frames.append(np.asarray(page))
    return frames


def _sized(image: np.ndarray, side: int) -> Image.Image:
    """Patches stay sharp when they grow; what shrinks is averaged."""
    smaller = side < image.shape[0]
    return Image.fromarray(image).resize((side, side), Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(11)


def _text_width(text: str) -> int:
    return int(_font().getlength(text)) + GAP_PX


def _widest(sheet: Sheet) -> int:
    return max(_text_width(name) for name in sheet) + 2 * GAP_PX


def _write(page: Image.Image, text: str, left: int, top: int) -> None:
    ImageDraw.Draw(page).text((left, top), text, INK, _font())
