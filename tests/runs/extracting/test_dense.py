"""Dense read-outs: the right place of every target, the closed form against scikit-learn's, one clear line for what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, jaccard_score, r2_score

import mvd_ds
from mvd_ds.config import ClipSettings, ConfigError, FeaturesRecipe, load_recipe
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.synthetic.motion import draw_poses
from mvd_ds.data.synthetic.rendering import draw_labels, read_glyphs
from mvd_ds.data.synthetic.writer import write_sample_set
from mvd_ds.runs.extract import extract
from mvd_ds.runs.extracting import dense
from mvd_ds.runs.extracting.dense import dense_readout, token_targets

SHAPE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8}
FRAMES = 8
CLIP = ClipSettings(frames=FRAMES, stride_frames=1, size_px=32)


def folder(**more: object) -> dense._TokenFolder:
    values = {"path": Path("features"), "lines": [], "clip": CLIP, "grid": (4, 2, 2), "every_frames": 1}
    return dense._TokenFolder(**(values | more))  # type: ignore[arg-type]


def test_cells_are_means_over_their_frames_and_pixels() -> None:
    """The middle 8 of 12 frames, the middle 4 x 4 of 4 x 6 pixels, two frames and 2 x 2 pixels a token."""
    values = np.arange(12 * 4 * 6, dtype=np.float64).reshape(12, 4, 6)
    values[2, 0, 1] = np.nan
    wanted, ok = token_targets(values, folder(), None, "a.npy")
    cut = values[2:10, :, 1:5].reshape(4, 2, 2, 2, 2, 2).mean((1, 3, 5)).reshape(16, 1)
    assert not ok[0] and ok[1:].all()
    np.testing.assert_allclose(wanted[1:], cut[1:])
    single, _ = token_targets(values, folder(grid=(4, 2, 2), every_frames=2), None, "a.npy")
    np.testing.assert_allclose(single[5:], values[2:10:2, :, 1:5].reshape(4, 2, 2, 2, 2).mean((2, 4)).reshape(16, 1)[5:])


def test_targets_of_frames_are_those_of_every_token() -> None:
    places = np.stack((np.arange(8.0), -np.arange(8.0)), 1)
    wanted, ok = token_targets(places, folder(), None, "a.npy")
    np.testing.assert_allclose(wanted.reshape(4, 4, 2), np.repeat(places.reshape(4, 2, 2).mean(1)[:, None], 4, 1))
    assert ok.all()


def test_cells_have_their_most_frequent_class_unless_most_is_unknown() -> None:
    values = np.zeros((8, 4, 4), np.int64)
    values[:2, :2, :2] = [[1, 1], [2, 1]]
    values[:2, 2:, 2:] = [[-1, -1], [-1, 2]]
    wanted, ok = token_targets(values, folder(), 3, "a.npy")
    assert wanted[0].tolist() == [0, 1, 0] and wanted[1].tolist() == [1, 0, 0]
    assert ok.tolist() == [True, True, True, False] + [True] * 12


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample set with the digit's position in every frame, (frames, 2), whether it covers a pixel, and tokens of a network."""
    root = tmp_path_factory.mktemp("dense")
    write_sample_set(root / "set", 24, 12, 0, size_px=32, frames=FRAMES)
    glyphs = read_glyphs(0)
    for split, count in (("train", 24), ("val", 12)):
        for index in range(count):
            what, how = draw_labels(0, split, index)
            generator = keyed_generator(0, f"clip {split}", index)
            generator.choice(np.flatnonzero(glyphs[split].digits == what))
            poses = draw_poses(how, FRAMES, generator)
            stem = root / "set" / split / f"{index:06d}"
            np.save(f"{stem}.position.npy", np.stack((poses.x, poses.y), 1))
            grid = (np.arange(16) + 0.5) / 16
            away = np.maximum(abs(grid[None, :, None] - poses.y[:, None, None]), abs(grid[None, None] - poses.x[:, None, None]))
            np.save(f"{stem}.digit.npy", (away < poses.side[:, None, None] / 2).astype(np.int64))
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, FRAMES, 32, seed=1), root / "model")
    for split in ("train", "val"):
        settings = [f"weights={root / 'model'}", f"data.manifest={root / 'set' / split}.txt", "tokens=true", "data.workers=0"]
        settings += [
            "data.clip.frames=8",
            "data.clip.stride_frames=1",
            "data.clip.size_px=32",
            "run.device=cpu",
            "videos_per_file=10",
        ]
        recipe = load_recipe("features", [*settings, f"run.output={root / split}"], "features")
        assert isinstance(recipe, FeaturesRecipe)
        extract(recipe, "features")
    return root


def examples(sample: Path, split: str, target: str, classes: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(tokens, wanted) for _, tokens, wanted, _ in dense._examples(dense._open(sample / split), target, None, classes)]


def test_a_read_out_is_the_ridge_regression_of_scikit_learn(sample: Path) -> None:
    found = dense_readout(sample / "train", sample / "val", "position")
    known, unseen = (examples(sample, split, "position") for split in ("train", "val"))
    tokens, wanted = (np.concatenate(parts).astype(np.float64) for parts in zip(*known, strict=True))
    deviation = tokens.std(0)
    model = Ridge(alpha=found.penalty * len(tokens)).fit(tokens / deviation, wanted)
    predicted = [model.predict(one / deviation).reshape(4, -1, 2).mean(1) for one, _ in unseen]
    true = [one.reshape(4, -1, 2)[:, 0] for _, one in unseen]
    expected = r2_score(np.concatenate(true), np.concatenate(predicted), multioutput="raw_values")
    np.testing.assert_allclose(found.per_channel, expected, atol=1e-3)
    assert found.score == pytest.approx(np.mean(found.per_channel)) and found.low < found.score < found.high
    assert (found.videos, found.tokens) == (12, 12 * 4) and found.penalty in dense.PENALTIES


def test_classes_are_counted_as_scikit_learn_counts_them(sample: Path) -> None:
    found = dense_readout(sample / "train", sample / "val", "digit")
    known, unseen = (examples(sample, split, "digit", 2) for split in ("train", "val"))
    tokens, wanted = (np.concatenate(parts).astype(np.float64) for parts in zip(*known, strict=True))
    deviation = tokens.std(0)
    model = Ridge(alpha=found.penalty * len(tokens)).fit(tokens / deviation, wanted)
    predicted = np.concatenate([model.predict(one / deviation).argmax(1) for one, _ in unseen])
    true = np.concatenate([one.argmax(1) for _, one in unseen])
    assert found.score == pytest.approx(accuracy_score(true, predicted), abs=5e-3) and found.tokens == 12 * 64
    np.testing.assert_allclose(found.per_channel, jaccard_score(true, predicted, average=None), atol=5e-3)


def test_tokens_that_hold_the_answer_give_all_of_it(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = dense._examples

    def told(*arguments: object) -> object:
        for of_frames, tokens, wanted, ok in original(*arguments):  # type: ignore[arg-type]
            yield of_frames, np.concatenate((tokens[:, :3], wanted @ np.array([[1.0, 2.0], [0.5, -1.0]])), 1), wanted, ok

    monkeypatch.setattr(dense, "_examples", told)
    found = dense_readout(sample / "train", sample / "val", "position")
    assert found.score > 0.999999 and found.penalty == min(dense.PENALTIES)


def test_faults_are_one_line(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"000000\.depth\.npy: the target of .*: No such file"):
        dense_readout(sample / "train", sample / "val", "depth")
    with pytest.raises(ConfigError, match=r"has no index\.csv"):
        dense_readout(tmp_path, sample / "val", "position")
    for split, values in (("train", np.zeros((8, 2))), ("val", np.zeros(8, np.int64))):
        (tmp_path / split).mkdir()
        for index in range(24):
            np.save(tmp_path / split / f"{index:06d}.kind.npy", values)
    with pytest.raises(ConfigError, match="has another type or other classes"):
        dense_readout(sample / "train", sample / "val", "kind", tmp_path / "train", tmp_path / "val")
    with pytest.raises(ConfigError, match="shows 1 classes"):
        dense_readout(sample / "train", sample / "val", "kind", tmp_path / "val", tmp_path / "val")
    assert torch.tensor(token_targets(np.zeros(8), folder(), None, "a")[0]).shape == (16, 1)


def test_arrays_of_a_set_of_the_game_are_read_and_truth_values_are_classes(tmp_path: Path) -> None:
    covered = np.arange(8 * 4 * 4).reshape(8, 4, 4) % 3 == 0
    np.savez(tmp_path / "000000.npz", depth=np.float16(covered), mask=covered)
    line = {"path": str(tmp_path / "000000.mp4")}
    values, origin = dense._target_of(line, "mask", None)
    assert np.issubdtype(values.dtype, np.integer) and (values == covered).all() and origin.endswith("000000.npz")
    assert dense._target_of(line, "depth", None)[0].dtype == np.float16
    with pytest.raises(ConfigError, match=r"000000\.npz: the target of .*: holds no array flow"):
        dense._target_of(line, "flow", None)


def test_two_videos_of_one_name_share_no_target(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample / "val", tmp_path / "val")
    index = tmp_path / "val" / "index.csv"
    index.write_text(index.read_text().replace("val/000001.mp4", "other/000000.mp4"))
    with pytest.raises(ConfigError, match=r"two videos of .* have one name; put the targets beside the videos"):
        dense_readout(sample / "train", tmp_path / "val", "position", sample / "set" / "train", sample / "set" / "val")


def test_tokens_of_two_networks_are_no_read_out(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample / "val", tmp_path / "val")
    stated = json.loads((tmp_path / "val" / "features.json").read_text())
    stated["contents"]["weights"] = "of another network"
    (tmp_path / "val" / "features.json").write_text(json.dumps(stated))
    with pytest.raises(ConfigError, match=r"was written with other weights than"):
        dense_readout(sample / "train", tmp_path / "val", "position")
