"""This module lays films of one clip out as a sheet of rows over time, a still image or a moving one."""

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

#: A film by the name of what its row shows.
Sheet = dict[str, np.ndarray]
#: Colours above this percentile of all values are alike: one token of a bad clip must not darken the rest.
BRIGHTEST = 99
CAPTION_PX, GAP_PX = 16, 3
PAPER, INK = (253, 253, 252), (29, 33, 39)


@dataclass
class Observed:
    """The record of what networks did with B clips."""

    clip: Tensor
    """Clips as they were shown, uint8 (B, C, T, H, W)."""
    grid: Grid
    """Token grid (t, h, w) of the student."""
    masked: Tensor | None = None
    """Tokens that were predicted, int64 (B, M)."""
    hidden: Tensor | None = None
    """Tokens that the student did not see, int64 (B, M')."""
    scores: Tensor | None = None
    """Scores that masks were drawn from on the device, (B, N)."""
    scored_by: str = ""
    """Kind of those scores in words."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Loss of each predicted token, (B, M), by target."""
    targets: dict[str, Tensor] = field(default_factory=dict)
    """Features of the teachers, (B, N, D), by target."""
    norms: dict[str, Tensor] = field(default_factory=dict)
    """L2 norms of the teachers' raw features, (B, N), by target."""
    predictions: dict[str, Tensor] = field(default_factory=dict)
    """Predictions of the student, (B, M, D), by target."""
    reconstruction: Tensor | None = None
    """Clips with predicted pixels in place of masked ones, uint8 (B, C, T, H, W)."""
    features: Tensor | None = None
    """Features of the encoder, (B, N, D)."""
    attention: dict[int, Tensor] = field(default_factory=dict)
    """Attention that each token receives, (B, N), by head."""
    similarity: dict[str, list[Tensor]] = field(default_factory=dict)
    """Similarity across frames after every block, (t, t), by network."""


def clip_sheets(seen: Observed) -> list[Sheet]:
    """Return a sheet for every clip; colours mean the same in all of them."""
    spaces = {name: ColourSpace(seen.targets.get(name, predicted)) for name, predicted in seen.predictions.items()}
    own = ColourSpace(seen.features) if seen.features is not None else None
    highs = {name: float(np.percentile(losses.float().cpu().numpy(), BRIGHTEST)) for name, losses in seen.losses.items()}
    return [_sheet(seen, row, spaces, own, highs) for row in range(len(seen.clip))]


def _sheet(seen: Observed, row: int, spaces: dict[str, ColourSpace], own: ColourSpace | None, highs: dict[str, float]) -> Sheet:
    film = clip_film(seen.clip[row], seen.grid[0])
    sheet = {"clip": film}
    if seen.scores is not None:
        scores = seen.scores[row].float().cpu().numpy()
        high = float(np.percentile(scores, BRIGHTEST))
        sheet[f"what the mask is drawn from: {seen.scored_by}"] = heat_film(scores, seen.grid, film.shape[1], high)
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
    """Return loss, target and prediction of one target, the last two in one colour space."""
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
    """Return a sheet of frames against frames: a row for every network, an image for every layer."""
    sheet = {}
    for name, layers in similarity.items():
        if layers and len(layers[0]) > 1:
            means = [across_frames(layer) for layer in layers]
            sheet[f"{name}: frames x frames, layers 1 to {len(layers)} (mean {means[0]:.2f} to {means[-1]:.2f})"] = matrix_film(
                layers, size_px
            )
    return sheet


def joined(sheets: list[Sheet]) -> Sheet:
    """Join sheets of images, which have one slot each, as if they were the frames of one clip."""
    return {name: np.concatenate([sheet[name] for sheet in sheets]) for name in sheets[0]}


def still(sheet: Sheet, cell_px: int) -> np.ndarray:
    """Return ``sheet`` as one image uint8 (H, W, 3): captions above rows, slots from left to right."""
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
    """Return an image uint8 (H, W, 3) for each slot, the rows of ``sheet`` side by side; sides are even, as video wants."""
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
    """Resize an image: patches stay sharp when they grow, and are averaged when they shrink."""
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
