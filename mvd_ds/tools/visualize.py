"""This module draws what a network makes of videos, as still or moving pictures (``visualize MODEL VIDEO...``)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import torch
from PIL import Image
from torch import Tensor

from mvd_ds.config import ClipSettings, ClipView, ConfigError, TrainingRecipe
from mvd_ds.data.readers.decode import DecodeError, open_video
from mvd_ds.data.views import cut_views
from mvd_ds.evaluation.sheets import Observed, Sheet, clip_sheets, joined, moving, similarity_sheet, still
from mvd_ds.files import write_json, written_aside
from mvd_ds.models.building import open_model
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.classifiers.classifier_folder import open_classifier, trained_clip
from mvd_ds.models.formats.containers import model_of
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.teachers import build_teacher
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.runs.pictures import similarity_numbers
from mvd_ds.runs.student import load_target_statistics
from mvd_ds.runs.visualization import observe, observe_encoder, picture_batch
from mvd_ds.training.console import say
from mvd_ds.training.step import PixelTargets, TargetSource, TeacherTargets, normalise, to_unit

#: Frames of a video that a network of single images is shown.
IMAGES = 8
#: Slots a second of a moving picture: slow enough to compare pictures that stand side by side.
SLOTS_PER_SECOND = 4
#: An mp4 shows its slots so often, because players skip what is shorter than a second or two.
TURNS = 3


class Viewer(NamedTuple):
    """The way in which a network is looked at."""

    clip: ClipSettings
    """Clip that is cut out of a video."""
    views: tuple[ClipView, ...]
    """Sides of the clip, in pixels."""
    look: Callable[[dict[ClipView, Tensor]], Observed]
    """Function from views, side in pixels -> uint8 (1, C, T, H, W)."""


def visualize(
    model: Path,
    videos: list[Path],
    output: Path,
    format: str,
    teacher: list[str],
    heads: list[int] | None,
    cell: int,
    device: str,
) -> None:
    """Write ``output/VIDEO.FORMAT``, the similarity across frames, and its numbers; a video that cannot be read is named last.

    Raises:
        ConfigError: if the model, a teacher or a head is not there, or a video could not be read, after all of them.
    """
    place = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else "cpu")
    viewer = _viewer(model, _named(teacher), heads, place)
    faults = []
    for name, video in zip(_names(videos), videos, strict=True):
        try:
            seen = viewer.look(_views(video, viewer))
        except DecodeError as error:
            faults.append(f"{video}: cannot be read: {error}")
            continue
        say(str(_write(output, name, format, seen, cell)))
    if faults:
        raise ConfigError("\n".join(faults))


def _write(output: Path, name: str, format: str, seen: Observed, cell: int) -> Path:
    """Write the files of one video and return the main one."""
    sheet = joined(clip_sheets(seen))
    similarity = similarity_sheet(seen.similarity, cell)
    target = output / f"{name}.{format}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        if format == "png":
            write_still(sheet | similarity, target, cell)
        else:
            WRITERS[format](sheet, target, cell)
            if similarity:
                write_still(similarity, output / f"{name}-similarity.png", cell)
        write_json(output / f"{name}.json", {"similarity": similarity_numbers(seen)})
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written: {error.strerror or error}") from None
    return target


def write_still(sheet: Sheet, target: Path, cell_px: int) -> None:
    """Write ``sheet`` to ``target`` as PNG: a page of rows over time."""
    with written_aside(target) as path:
        Image.fromarray(still(sheet, cell_px)).save(path, format="PNG", optimize=True)


def write_gif(sheet: Sheet, target: Path, cell_px: int) -> None:
    """Write ``sheet`` to ``target`` as a GIF that repeats for ever, rows side by side."""
    first, *others = [Image.fromarray(frame) for frame in moving(sheet, cell_px)]
    with written_aside(target) as path:
        first.save(path, format="GIF", save_all=True, append_images=others, duration=1000 // SLOTS_PER_SECOND, loop=0)


def write_mp4(sheet: Sheet, target: Path, cell_px: int) -> None:
    """Write ``sheet`` to ``target`` as H.264 that any browser plays, rows side by side."""
    frames = moving(sheet, cell_px) * TURNS
    with written_aside(target) as path, av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(SLOTS_PER_SECOND), options={"crf": "16"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


WRITERS: dict[str, Callable[[Sheet, Path, int], None]] = {"png": write_still, "gif": write_gif, "mp4": write_mp4}


def _viewer(source: Path, teachers: dict[str, Path], heads: list[int] | None, device: torch.device) -> Viewer:
    folder = model_of(source)
    model, checkpoint = open_model(folder)
    model = model.to(device).requires_grad_(False)
    encoder = model if isinstance(model, VisionTransformer) else model.encoder
    _require_heads(heads, encoder)
    recipe = checkpoint.recipe
    if isinstance(model, MaskedPredictor) and recipe is not None:
        return _predictor_viewer(model, recipe, folder, teachers, heads, device)
    if teachers:
        raise ConfigError(f"--teacher: {folder} predicts nothing of teachers; give the model folder of a `distill` run")
    clip = trained_clip(folder)
    if isinstance(model, Classifier):
        preprocessing = open_classifier(folder)[1].preprocessing
        mean, std = (torch.tensor(values, device=device) for values in (preprocessing.mean, preprocessing.std))
        adapt: Callable[[Tensor], Tensor] = lambda view: _standardised(view, mean, std)  # noqa: E731
    else:
        adapt = lambda view: normalise(to_unit(view), torch.float32)  # noqa: E731
    is_image = encoder.settings.kind == "image"

    def look(views: dict[ClipView, Tensor]) -> Observed:
        view = _as_batch(views[clip.size_px], is_image).to(device)
        return observe_encoder(encoder, view, adapt(view), heads, IMAGES)

    return Viewer(_shown_clip(clip, is_image), (clip.size_px,), look)


def _predictor_viewer(
    model: MaskedPredictor,
    recipe: TrainingRecipe,
    folder: Path,
    teachers: dict[str, Path],
    heads: list[int] | None,
    device: torch.device,
) -> Viewer:
    """Return the viewer of a stage-one model or a student, under a mask of its recipe."""
    for name in teachers:
        if name not in recipe.teachers:
            known = f"its teachers are {', '.join(recipe.teachers)}" if recipe.teachers else "this model has no teachers"
            raise ConfigError(f"--teacher {name}: {known}")
    given = {
        name: recipe.teachers[name].model_copy(update={"weights": str(model_of(folder))}) for name, folder in teachers.items()
    }
    full = recipe.model_copy(update={"teachers": recipe.teachers | given})
    targets: TargetSource | None = PixelTargets(recipe) if recipe.pixels is not None else None
    if given:
        built: dict[str, Callable[..., Tensor]] = {
            name: build_teacher(name, settings, full).to(device) for name, settings in given.items()
        }
        targets = TeacherTargets(recipe.model_copy(update={"teachers": given}), built, torch.float32)
        load_target_statistics(folder, targets.terms)
    is_image = recipe.model.kind == "image"
    seen = tuple(dict.fromkeys([recipe.data.clip.size_px, *(full.view_of(settings) for settings in given.values())]))

    def look(views: dict[ClipView, Tensor]) -> Observed:
        batch = picture_batch(recipe, {size: _as_batch(view, is_image) for size, view in views.items()})
        return observe(recipe, model, model, targets, batch, device, heads, IMAGES)

    return Viewer(_shown_clip(recipe.data.clip, is_image), seen, look)


def _views(video: Path, viewer: Viewer) -> dict[ClipView, Tensor]:
    """Return the middle of a video, uint8 (1, C, T, H, W), by side.

    Raises:
        DecodeError: if it cannot be read.
    """
    with open_video(str(video)) as opened:
        cuts = partial(cut_views, opened, segments=1, crops=1)
        return {view: cuts(viewer.clip.seen_as(view)) for view in viewer.views}


def _shown_clip(clip: ClipSettings, is_image: bool) -> ClipSettings:
    """Return the clip that is shown: networks of images see ``IMAGES`` frames of the whole video."""
    return clip.model_copy(update={"frames": IMAGES, "sampling": "uniform"}) if is_image else clip


def _as_batch(view: Tensor, is_image: bool) -> Tensor:
    """Return uint8 (1, C, T, H, W), or (T, C, 1, H, W) for a network of single images."""
    return view[0].transpose(0, 1).unsqueeze(2) if is_image else view


def _standardised(view: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (to_unit(view) - mean.view(1, 3, 1, 1, 1)) / std.view(1, 3, 1, 1, 1)


def _named(given: list[str]) -> dict[str, Path]:
    """Return folders by name from ``NAME=FOLDER``."""
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ConfigError(f"--teacher {text}: it takes NAME=FOLDER")
        if not Path(folder).exists():
            raise ConfigError(f"--teacher {text}: {folder} is not there")
    return {text.partition("=")[0]: Path(text.partition("=")[2]) for text in given}


def _names(videos: list[Path]) -> list[str]:
    """Return file names of pictures, none twice."""
    names: list[str] = []
    for video in videos:
        name, number = video.stem, 2
        while name in names:
            name, number = f"{video.stem}-{number}", number + 1
        names.append(name)
    return names


def _require_heads(heads: list[int] | None, encoder: VisionTransformer) -> None:
    count = encoder.settings.num_heads
    for head in heads or ():
        if not 0 <= head < count:
            raise ConfigError(f"--heads {head}: the last layer has {count}, 0 to {count - 1}")
