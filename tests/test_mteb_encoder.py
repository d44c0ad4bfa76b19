"""An encoder for mteb gives the features of ``mvd_ds.load``, from frames and from decoders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import mvd_ds
from classifiers import CLIP, SHAPE
from mvd_ds.config import ConfigError
from mvd_ds.data.readers.decode import read_frames
from mvd_ds.data.synthetic.writer import write_sample_set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mteb")
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, CLIP.frames, CLIP.size_px), folder / "model")
    write_sample_set(folder / "set", 3, 1, 0, size_px=48, frames=20)
    return folder


class Decoder:
    """The part of torchcodec's decoder that is used; mteb's rows hold one for each video."""

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames, self.metadata = frames, SimpleNamespace(num_frames=len(frames), average_fps=15.0)

    def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
        return SimpleNamespace(data=self.frames[indices])


def test_features_are_those_of_the_encoder_whoever_decodes(made: Path) -> None:
    paths = sorted((made / "set" / "train").glob("*.mp4"))
    frames = [torch.from_numpy(read_frames(str(path), np.arange(20))).permute(0, 3, 1, 2) for path in paths]
    model = mvd_ds.mteb_model(made / "model", "cpu", segments=2)
    rows = [{"video": Decoder(one), "label": 0} for one in frames]
    found = model.encode(DataLoader(rows, batch_size=2), task_metadata=None, hf_split="test", hf_subset="default")
    expected = np.stack([mvd_ds.load(made / "model").features(path, segments=2).mean(0).numpy() for path in paths])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(model.encode([{"video": frames}]), expected, atol=1e-5)
    cosines = model.similarity(found, found)
    assert cosines.shape == (3, 3) and torch.allclose(cosines.diagonal(), torch.ones(3))
    torch.testing.assert_close(model.similarity_pairwise(found, found[::-1].copy()), cosines.flip(1).diagonal())
    with pytest.raises(ConfigError, match="encodes videos; this task gives text"):
        model.encode([{"text": ["a"]}])
