"""A clip of each class of the probed labels, as moving pictures inside the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image as Pictures

from mvd_ds.config import ClipSettings, ConfigError
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from mvd_ds.data.readers.decode import DecodeError, open_video
from mvd_ds.data.remote.fetching import is_elsewhere
from mvd_ds.data.views import crop_boxes, segment_indices
from mvd_ds.tools.report.run_records import RunRecord
from mvd_ds.tools.report.templating import Figure, Image

MOST_CLASSES = 12
"""Classes of a label that are shown, the first ones."""
SIDE_PX = 96
"""Largest side of a moving picture."""
FRAME_MILLISECONDS = 90
"""Time that a frame is shown; the last one stays four times as long, so that the eye sees where a clip begins."""


def class_clips(runs: list[RunRecord]) -> list[tuple[str, list[Figure]]]:
    """Return for each label of the first probe run the first held-out clip of each class, moving; nothing without such clips."""
    run = next((run for run in runs if run.results is not None and run.results.probes), None)
    if run is None:
        return []
    path = run.recipe.get("validation_manifest") or run.recipe.get("data", {}).get("manifest")
    try:
        manifest = read_manifest(path)
        clip = ClipSettings.model_validate(run.recipe["data"]["clip"])
    except (ConfigError, KeyError, TypeError, ValueError):
        return []  # the videos are elsewhere: the numbers stand without them
    shown = ((label, _figures(manifest, column, clip)) for column, label in enumerate(manifest.label_names))
    return [(label, figures) for label, figures in shown if figures]


def _figures(manifest: Manifest, column: int, clip: ClipSettings) -> list[Figure]:
    labels = manifest.labels[:, column]
    names = manifest.class_names.get(manifest.label_names[column], ())
    figures = []
    for number in np.unique(labels[labels >= 0])[:MOST_CLASSES].tolist():
        location = manifest.refs.location(int(np.flatnonzero(labels == number)[0]))
        name = names[number] if number < len(names) else f"class {number}"
        try:
            if is_elsewhere(location):
                continue
            with open_video(location) as video:
                frames = video.get(segment_indices(len(video), clip, 1, video.fps)[0])
        except DecodeError:
            continue
        figures.append(Figure(name, [], image=Image(moving_picture(frames), name)))
    return figures


def moving_picture(frames: np.ndarray) -> str:
    """Return the middle squares of uint8 frames (T, H, W, 3) as the ``data:`` address of a GIF that never ends."""
    box = crop_boxes(frames.shape[1], frames.shape[2], 1)[0]
    squares = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    side = min(SIDE_PX, squares.shape[1])
    pictures = [Pictures.fromarray(square).resize((side, side), Pictures.Resampling.BOX) for square in squares]
    times = [FRAME_MILLISECONDS] * (len(pictures) - 1) + [4 * FRAME_MILLISECONDS]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return f"data:image/gif;base64,{base64.b64encode(file.getvalue()).decode()}"
