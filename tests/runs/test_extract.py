"""Features in files: every video once, on any number of processes, from where an interrupted run was."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mvd_ds
from adapted_runs import WIDTH, write_run
from classifiers import CLIP, SHAPE
from launching import launch
from mvd_ds.config import ConfigError, FeaturesRecipe, load_recipe
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.views import view_batches
from mvd_ds.evaluation.feature_files import read_description, read_features, write_features
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.runs import extract
from mvd_ds.tools.export import export
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import normalise, to_unit

CLIP_OVERRIDES = [f"data.clip.{key}={getattr(CLIP, key)}" for key in ("frames", "stride_frames", "size_px")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, CLIP.frames, CLIP.size_px), folder)
    return folder


@pytest.fixture
def features(videos: Path, weights: Path, tmp_path: Path):
    """Runs the command's parts as each of ``world`` ranks would, one after the other."""

    def run(*overrides: str, world: int = 1, ranks: range | None = None, manifest: Path = videos / "val.txt") -> Path:
        settings = [f"weights={weights}", f"data.manifest={manifest}", "data.workers=0", "videos_per_file=5", *CLIP_OVERRIDES]
        recipe = load_recipe("features", [*settings, f"run.output={tmp_path / 'run'}", *overrides], "features")
        assert isinstance(recipe, FeaturesRecipe)
        folder, listed = RunFolder.of(recipe, "features"), read_manifest(manifest)
        forward = extract._forward(recipe, torch.device("cpu"))
        extract._open(recipe, folder, listed)
        count = len(listed.refs)
        parts = [range(first, min(first + 5, count)) for first in range(0, count, 5)]
        for rank in ranks or range(world):
            extract._fill(recipe, folder, listed, forward, parts, Cluster(rank, world, torch.device("cpu")))
        if ranks is None:
            extract._close(folder, listed, len(parts))
        return folder.path

    return run


def expected(weights: Path, manifest: Path, segments: int = 1) -> tuple[VisionTransformer, torch.Tensor]:
    """The encoder, and all clips (n, segments, C, T, H, W), normalised."""
    listed = read_manifest(manifest)
    data = load_recipe("features", [f"data.manifest={manifest}", "data.workers=0", *CLIP_OVERRIDES]).data
    (batch,) = view_batches(data, listed, [range(len(listed.refs))], segments)
    return mvd_ds.open_model(weights)[0], normalise(to_unit(batch.clips.flatten(0, 1)), torch.float32)


@pytest.mark.parametrize("kind", ["safetensors", "npy"])
@torch.no_grad()
def test_embeddings_stand_in_the_order_of_the_manifest(features, weights, videos, kind) -> None:
    found, lines = read_features(features(f"file_format={kind}", world=3))
    encoder, clips = expected(weights, videos / "val.txt")
    np.testing.assert_allclose(found, encoder(clips).mean(1).numpy(), atol=1e-5)
    listed = read_manifest(videos / "val.txt")
    assert [line["path"] for line in lines] == [listed.refs.path(index) for index in range(16)]
    assert [[int(line["what"]), int(line["how"])] for line in lines] == listed.labels.tolist()
    assert {line["file"] for line in lines} == {f"features-{number:05}.{kind}" for number in range(4)}


@torch.no_grad()
def test_an_adaptor_answers_in_place_of_the_encoder(features, videos, tmp_path) -> None:
    export(write_run(tmp_path / "trained"), tmp_path / "out", [], adaptors=[])
    asked = [f"weights={tmp_path / 'out'}", "adaptor=video"]
    vectors, _ = read_features(features(*asked))
    assert vectors.shape == (16, WIDTH)
    listed, opened = read_manifest(videos / "val.txt"), mvd_ds.load(tmp_path / "out")
    answer = opened.adapt("video", listed.refs.path(3))
    np.testing.assert_allclose(vectors[3], answer[0].mean(0).numpy(), atol=1e-5)
    tokens, _ = read_features(features(*asked, "tokens=true", f"run.output={tmp_path / 'b'}"))
    np.testing.assert_allclose(tokens[3], answer[0].numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match="there is no adaptor 'vidoe'; did you mean 'video'"):
        features(*asked, "adaptor=vidoe", f"run.output={tmp_path / 'c'}")
    with pytest.raises(ConfigError, match="layer 1: adaptor video reads the encoder's last block; remove layer"):
        features(*asked, "layer=1")
    with pytest.raises(ConfigError, match="every_frames 2: adaptor video sees all frames; remove every_frames"):
        features(*asked, "every_frames=2")


@pytest.mark.launch
def test_two_processes_under_the_launcher_write_the_same(features, weights, videos, tmp_path) -> None:
    alone, _ = read_features(features())
    settings = [
        f"weights={weights}",
        f"data.manifest={videos / 'val.txt'}",
        "data.workers=1",
        "videos_per_file=3",
        *CLIP_OVERRIDES,
    ]
    launch(2, "features", "features", *settings, f"run.output={tmp_path / 'two'}")
    found, lines = read_features(tmp_path / "two")
    assert len({line["file"] for line in lines}) == 6
    np.testing.assert_allclose(found, alone, atol=1e-6)


@torch.no_grad()
def test_tokens_of_any_layer_in_any_views(features, weights, videos) -> None:
    path = features("tokens=true", "layer=0", "views.segments=2", "dtype=float16")
    found, _ = read_features(path)
    encoder, clips = expected(weights, videos / "val.txt", segments=2)
    tokens = encoder.blocks[0](encoder.embed(clips)).unflatten(0, (16, 2))
    assert found.shape == tuple(tokens.shape) and found.dtype == np.float16
    np.testing.assert_allclose(found, tokens.numpy(), atol=1e-2)


def test_what_is_whole_is_not_made_again_and_the_numbers_are_the_same(features, tmp_path, monkeypatch) -> None:
    whole, _ = read_features(features())
    for path in (tmp_path / "run").glob("features-*"):
        path.unlink()
    path = features(world=2, ranks=range(1))  # rank 1 never came
    assert [bool(read_description(path, number)) for number in range(4)] == [True, False, True, False]
    with pytest.raises(ConfigError, match="goes on where it was"):
        (path / "index.csv").unlink()
        read_features(path)
    made = []
    monkeypatch.setattr(extract, "write_features", lambda *given: (made.append(given[1]), write_features(*given)))
    again, _ = read_features(features())
    assert made == [1, 3]
    np.testing.assert_array_equal(again, whole)


def test_a_video_that_cannot_be_read_has_no_row(features, videos, tmp_path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    good = sorted((videos / "val").glob("*.mp4"))[:6]
    lines = [f"{good[0]} 1", f"{tmp_path / 'bad.mp4'} 2", *(f"{path} 3" for path in good[1:])]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    path = features(manifest=tmp_path / "list.txt")
    found, _ = read_features(path)
    assert len(found) == 6 and np.isfinite(found).all()
    with (path / "index.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[1]["file"] == "" and rows[1]["fault"] and [row["row"] for row in rows] == ["0", "", "1", "2", "3", "0", "1"]


def test_other_features_are_not_mixed_in(features, videos, tmp_path) -> None:
    features()
    with pytest.raises(ConfigError, match=r"holds other features: layer: -1 -> 0; set them back, or choose another run\.output"):
        features("layer=0")
    features("data.prefetch_batches=2", "run.device=cpu")
    assert json.loads((tmp_path / "run" / "features.json").read_text())["videos"] == 16
    with pytest.raises(ConfigError, match="holds other features"):
        features(manifest=videos / "train.txt")


def test_a_layer_that_is_not_there_is_one_line(features) -> None:
    with pytest.raises(ConfigError, match=r"layer 2: .* has 2 blocks|layer 2: .* has blocks 0 to 1"):
        features("layer=2")


def test_two_networks_never_share_an_index(features, weights, tmp_path) -> None:
    """Killed, weights replaced, started again; and the same weights moved elsewhere are the same network."""
    model = tmp_path / "model"
    shutil.copytree(weights, model)
    run = features(f"weights={model}", ranks=range(1), world=2)
    before = sorted(path.name for path in run.iterdir())
    moved = tmp_path / "moved"
    model.rename(moved)
    features(f"weights={moved}", ranks=range(1), world=2)
    assert sorted(path.name for path in run.iterdir()) == before
    shutil.rmtree(moved)
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, CLIP.frames, CLIP.size_px, seed=1), moved)
    with pytest.raises(ConfigError, match=r"holds other features: weights: the content of .*moved is not what it was"):
        features(f"weights={moved}")
