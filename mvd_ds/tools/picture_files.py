"""Sheets as files: PNG, GIF and mp4, written aside and then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

from mvd_ds.evaluation.sheets import Sheet, moving, still

#: Slots a second: slow enough to compare pictures that stand side by side.
SLOTS_PER_SECOND = 4
#: An mp4 shows its slots so often, because players skip what is shorter than a second or two.
TURNS = 3


def write_still(sheet: Sheet, target: Path, cell_px: int) -> None:
    """A page of rows over time, as PNG."""
    with _Aside(target) as path:
        Image.fromarray(still(sheet, cell_px)).save(path, format="PNG", optimize=True)


def write_gif(sheet: Sheet, target: Path, cell_px: int) -> None:
    """Rows side by side, moving, for ever."""
    first, *others = [Image.fromarray(frame) for frame in moving(sheet, cell_px)]
    with _Aside(target) as path:
        first.save(path, format="GIF", save_all=True, append_images=others, duration=1000 // SLOTS_PER_SECOND, loop=0)


def write_mp4(sheet: Sheet, target: Path, cell_px: int) -> None:
    """Rows side by side, moving, as H.264 that any browser plays."""
    frames = moving(sheet, cell_px) * TURNS
    with _Aside(target) as path, av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(SLOTS_PER_SECOND), options={"crf": "16"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


WRITERS: dict[str, Callable[[Sheet, Path, int], None]] = {"png": write_still, "gif": write_gif, "mp4": write_mp4}


class _Aside:
    """A path to write to, renamed to ``target`` when it is whole and removed when it is not."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            os.replace(self.path, self.target)
        else:
            self.path.unlink(missing_ok=True)
