"""The usual way to feed such training, written for comparison: decord, Pillow, two float views, torch's DataLoader."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ClipSettings
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.transforms import multiscale_box

#: CPU milliseconds of a clip of ten seconds, 340 x 256, in one process, without the DataLoader's transport, in which it lands
#: (79 of decord, 40 after it on an EPYC core); outside of them something else was measured.
EXPECTED_MS = (100.0, 140.0)


class ReferenceClips(Dataset[tuple[Tensor, Tensor]]):
    """Clip ``number`` as two views fp32 (C, T, H, W): the student's and the teacher's, resized from one crop, one by one."""

    def __init__(self, paths: Sequence[str], clip: ClipSettings) -> None:
        self._paths, self._clip = list(paths), clip

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        import decord

        generator = keyed_generator(0, "reference", number)
        reader = decord.VideoReader(self._paths[number % len(self._paths)], num_threads=1)
        indices = frame_indices(len(reader), self._clip, generator, reader.get_avg_fps())
        pictures = [Image.fromarray(frame).convert("RGB") for frame in reader.get_batch(indices.tolist()).asnumpy()]
        size = self._clip.size_px
        box = multiscale_box(pictures[0].height, pictures[0].width, size, generator)
        area = (box.left, box.top, box.left + box.width, box.top + box.height)
        crops = [picture.crop(area) for picture in pictures]
        views = [[crop.resize((size, size), Image.Resampling.BILINEAR) for crop in crops] for _ in range(2)]
        return _normalised(views[0]), _normalised(views[1])


def reference_ms(paths: Sequence[str], clip: ClipSettings, clips: int) -> float:
    """CPU milliseconds of a clip in this process: without workers and what they cost."""
    made = ReferenceClips(paths, clip)
    began = time.process_time()
    for number in range(clips):
        made[number]
    return 1000 * (time.process_time() - began) / clips


def _normalised(pictures: list[Image.Image]) -> Tensor:
    """fp32 (C, T, H, W): stacked along the colours, to [0, 1], then colour by colour."""
    stacked = np.concatenate([np.asarray(picture) for picture in pictures], axis=2)
    clip = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
    means, deviations = IMAGENET_MEAN * len(pictures), IMAGENET_STD * len(pictures)
    for plane, mean, deviation in zip(clip, means, deviations, strict=True):
        plane.sub_(mean).div_(deviation)
    return clip.view(len(pictures), 3, *clip.shape[1:]).transpose(0, 1)
