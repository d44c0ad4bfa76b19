"""Sliding windows: the arrays that OpenTAD's loader takes, window by window those of the encoder, on any number of ranks."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mvd_ds
from classifiers import SHAPE
from mvd_ds.config import ConfigError, FeaturesRecipe, load_recipe
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.readers.decode import open_video
from mvd_ds.data.transforms import center_box, cut
from mvd_ds.runs.extract import extract
from mvd_ds.runs.extracting.windows import fill_windows, window_starts
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.step import normalise, to_unit
from object_servers import ObjectServer, until_all_are_asked_for
from video_files import write_video

LENGTHS = {"long": 23, "short": 5, "exact": 7}


@pytest.fixture(scope="module")
def set_of_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of different lengths, and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, (name, frames) in enumerate(LENGTHS.items()):
        write_video(folder / f"{name}.mp4", frames=frames, width=64, height=48, seed=seed)
    (folder / "broken.mp4").write_bytes(b"no video")
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, 4, 48), folder / "model")
    lines = [*(f"{name}.mp4" for name in LENGTHS), "broken.mp4"]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder


def recipe_of(folder: Path, output: Path, *more: str) -> FeaturesRecipe:
    settings = [f"weights={folder / 'model'}", f"data.manifest={folder / 'list.txt'}", "data.workers=0", "batch=3"]
    settings += ["data.clip.frames=4", "data.clip.stride_frames=2", "data.clip.size_px=48", "windows.every_frames=3"]
    recipe = load_recipe("features", [*settings, f"run.output={output}", "run.device=cpu", *more], "features")
    assert isinstance(recipe, FeaturesRecipe)
    return recipe


def opentad_loads(folder: Path, video_name: str) -> torch.Tensor:
    """What OpenTAD's pipeline does with ``feat_format="npy"``: ``np.load``, float32, a tensor whose first axis is time."""
    feats = np.load(folder / f"{video_name}.npy").astype(np.float32)
    assert feats.ndim == 2
    return torch.from_numpy(feats).float()


@torch.no_grad()
def test_files_open_as_opentad_opens_them_and_hold_every_window(set_of_videos: Path, tmp_path: Path) -> None:
    extract(recipe_of(set_of_videos, tmp_path), "features")
    encoder = mvd_ds.open_model(set_of_videos / "model")[0]
    expected = {"long": [0, 3, 6, 9, 12, 15], "short": [0], "exact": [0]}
    for name, starts in expected.items():
        found, video = opentad_loads(tmp_path, name), open_video(str(set_of_videos / f"{name}.mp4"))
        assert found.shape == (len(starts), 32)
        for row, start in enumerate(starts):
            frames = video.get(np.minimum(start + np.array([0, 2, 4, 6]), LENGTHS[name] - 1))
            clip = cut(frames, center_box(48, 64), 48)[None]
            torch.testing.assert_close(
                found[row], encoder(normalise(to_unit(clip), torch.float32)).mean(1)[0], rtol=1e-4, atol=1e-5
            )
    with (tmp_path / "index.csv").open(newline="") as file:
        lines = {Path(line["path"]).stem: line for line in csv.DictReader(file)}
    assert lines["long"]["windows"] == "6" and lines["long"]["frames"] == "23" and lines["long"]["file"] == "long.npy"
    assert lines["broken"]["file"] == "" and lines["broken"]["fault"] and not (tmp_path / "broken.npy").exists()


def test_ranks_share_the_videos_and_whole_files_stay(set_of_videos: Path, tmp_path: Path) -> None:
    (tmp_path / "long.npy").write_bytes(b"kept")
    manifest, recipe = read_manifest(set_of_videos / "list.txt"), recipe_of(set_of_videos, tmp_path)
    calls: list[int] = []

    def forward(clips: torch.Tensor) -> torch.Tensor:
        calls.append(len(clips))
        return clips.float().mean((2, 3, 4))

    ranks = [fill_windows(recipe, tmp_path, manifest, forward, Cluster(rank, 2, torch.device("cpu"))) for rank in (0, 1)]
    assert [sorted(found) for found in ranks] == [[0, 2], [1, 3]]
    assert [ranks[0][0].windows, ranks[0][2].windows, ranks[1][1].windows] == [6, 1, 1] and ranks[1][3].fault
    assert calls == [1, 1] and (tmp_path / "long.npy").read_bytes() == b"kept"
    assert {path.stem for path in tmp_path.glob("*.npy")} == {"long", "short", "exact"}


def test_windows_end_with_the_last_that_fits() -> None:
    assert list(window_starts(16, 16, 4)) == [0] and list(window_starts(19, 16, 4)) == [0]
    assert list(window_starts(20, 16, 4)) == [0, 4] and list(window_starts(3, 16, 4)) == [0]


def test_faults_are_one_line(set_of_videos: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(set_of_videos / "short.mp4", tmp_path / "a" / "short.mp4")
    (tmp_path / "twice.txt").write_text(f"{set_of_videos / 'short.mp4'}\n{tmp_path / 'a' / 'short.mp4'}\n")
    with pytest.raises(ConfigError, match=r"would both be short\.npy"):
        extract(recipe_of(set_of_videos, tmp_path / "out", f"data.manifest={tmp_path / 'twice.txt'}"), "features")
    for setting in ("tokens=true", "views.segments=2"):
        with pytest.raises(ConfigError, match="windows"):
            recipe_of(set_of_videos, tmp_path / "out", setting)


def test_videos_of_a_server_are_fetched_ahead(set_of_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "cache"))
    server = ObjectServer(set_of_videos)
    (tmp_path / "out").mkdir()
    recipe = recipe_of(set_of_videos, tmp_path / "out", f"data.manifest={server.address}/list.txt")
    manifest = read_manifest(f"{server.address}/list.txt")
    server.faults.status, cluster = until_all_are_asked_for(4), Cluster(0, 1, torch.device("cpu"))
    try:
        found = fill_windows(recipe, tmp_path / "out", manifest, lambda clips: clips.flatten(1)[:, :2].float(), cluster)
    finally:
        server.kill()
    assert [found[row].frames for row in range(3)] == list(LENGTHS.values())
    assert found[3].fault and "refuses" not in found[3].fault
