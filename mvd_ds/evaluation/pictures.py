"""This module turns tokens, masks, losses and attention into images. It knows no model: tensors in, arrays out.

A *film* is uint8 (t, H, W, 3): one image for each slot of the token grid, so that films of one clip lie frame by frame
beside each other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import Grid

#: Grey of values that are not known, the student's predictions at visible tokens for example.
UNKNOWN = 96
#: Share of a frame's brightness that is left where a token is hidden.
HIDDEN = 0.15
#: Tokens that a colour space is fitted on, evenly spread over all: four times as many take four times as long.
FIT_TOKENS = 2048


def clip_film(clip: Tensor, slots: int) -> np.ndarray:
    """Return the first frame of every slot of a clip, uint8 (C, T, H, W)."""
    frames = clip.permute(1, 2, 3, 0)
    return frames[:: max(len(frames) // slots, 1)].contiguous().cpu().numpy()


def spread(values: np.ndarray, grid: Grid, size_px: int) -> np.ndarray:
    """Return values of tokens (N, ...) at every pixel of their patches, (t, size_px, size_px, ...)."""
    t, h, w = grid
    placed = values.reshape(t, h, w, *values.shape[1:])
    rows, columns = (np.arange(size_px) * count // size_px for count in (h, w))
    return placed[:, rows][:, :, columns]


def hidden_film(film: np.ndarray, masked: Tensor, grid: Grid) -> np.ndarray:
    """Return the film with the patches of ``masked``, int64 (M,), darkened: the bright rest is what the student sees."""
    hidden = np.zeros(int(np.prod(grid)), bool)
    hidden[masked.cpu().numpy()] = True
    dark = spread(hidden, grid, film.shape[1])[..., None]
    return np.where(dark, film * HIDDEN, film).round().astype(np.uint8)


def placed(values: Tensor, tokens: Tensor, count: int) -> np.ndarray:
    """Return fp32 (count, ...) with ``values`` (M, ...) at ``tokens`` (M,) and NaN elsewhere."""
    result = np.full((count, *values.shape[1:]), np.nan, np.float32)
    result[tokens.cpu().numpy()] = values.detach().float().cpu().numpy()
    return result


def heat_film(values: np.ndarray, grid: Grid, size_px: int, high: float) -> np.ndarray:
    """Return a film of values of tokens (N,) between 0 (dark) and ``high`` (yellow), grey where they are NaN."""
    from matplotlib import colormaps

    shares = np.clip(np.nan_to_num(values) / max(high, 1e-12), 0, 1)
    colours = colormaps["inferno"](shares, bytes=True)[:, :3]
    colours[np.isnan(values)] = UNKNOWN
    return spread(colours, grid, size_px)


class ColourSpace:
    """A map from features of any width to colours by their first three principal components.

    Args:
        features: (..., D) of one network; the same space then shows what another predicts of it. Colours reach from the
            1st to the 99th percentile of these features along each component.
    """

    def __init__(self, features: Tensor) -> None:
        from sklearn.decomposition import PCA  # 2 s of a core, and only rank 0 draws

        every = features.detach().float().flatten(0, -2).cpu()
        tokens = every[:: -(-len(every) // FIT_TOKENS)].numpy()
        components = min(3, *tokens.shape)
        # Three of 1024 components of 6272 tokens: Lanczos took 0.5 s of a busy core, the whole decomposition 1.4.
        solver = "arpack" if components < min(tokens.shape) else "full"
        self.pca = PCA(components, svd_solver=solver, random_state=0).fit(tokens)
        self.low, self.high = np.percentile(self.pca.transform(tokens), (1, 99), axis=0)

    def colours(self, features: np.ndarray) -> np.ndarray:
        """Return colours uint8 (N, 3) of features (N, D), grey where they are NaN."""
        known = ~np.isnan(features).any(axis=1)
        colours = np.full((len(features), 3), UNKNOWN, np.uint8)
        if known.any():
            shares = (self.pca.transform(features[known]) - self.low) / np.maximum(self.high - self.low, 1e-12)
            shown = (255 * np.clip(shares, 0, 1)).round().astype(np.uint8)
            colours[known] = np.pad(shown, ((0, 0), (0, 3 - shown.shape[1])), constant_values=UNKNOWN)
        return colours


def received_attention(qkv: Tensor, heads: list[int], skipped: int) -> Tensor:
    """Return the attention that every token receives: the mean over all queries, or that of the class token if there is one.

    Args:
        qkv: (B, [skipped +] N, 3, heads, d) before the softmax.
        heads: indices of the heads.
        skipped: tokens before those of the grid.

    Returns:
        fp32 (B, len(heads), N); a row adds up to one, but for what ``skipped`` tokens get.
    """
    rows = []
    for clip in qkv.float():  # one at a time: N x N weights of several clips of ViT-H would be gigabytes
        query, key = (clip[:, part][:, heads].transpose(0, 1) for part in (0, 1))
        query = query[:, :1] if skipped else query
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        rows.append(weights.mean(dim=1)[:, skipped:])
    return torch.stack(rows)


def frame_similarity(tokens: Tensor) -> Tensor:
    """Return the mean cosine similarity of tokens at the same place in two slots, for every pair of slots.

    Source: MVD, which compares its two teachers by it.

    Args:
        tokens: (B, t, places, D).

    Returns:
        fp32 (t, t), the mean over clips and places; ones on the diagonal.
    """
    directions = torch.nn.functional.normalize(tokens.detach().float(), dim=-1)
    return torch.einsum("bipd,bjpd->ij", directions, directions) / (tokens.shape[0] * tokens.shape[2])


def across_frames(similarity: Tensor) -> float:
    """Return the mean of a (t, t) similarity over pairs of different slots."""
    slots = len(similarity)
    return float((similarity.sum() - similarity.diagonal().sum()) / (slots * (slots - 1)))


def matrix_film(matrices: list[Tensor], size_px: int) -> np.ndarray:
    """Return one image for each (t, t) matrix of similarities between 0 (dark) and 1 (yellow)."""
    cells = [heat_film(matrix.cpu().numpy().reshape(-1), (1, *matrix.shape), size_px, 1.0) for matrix in matrices]
    return np.concatenate(cells)
