"""Dense read-outs of folders of tokens: the closed form against scikit-learn's, one clear line for what is wrong."""

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
from mvd_ds.config import ConfigError, DenseSettings, FeaturesRecipe, load_recipe
from mvd_ds.data.synthetic.writer import write_sample_set
from mvd_ds.evaluation.dense_inputs import readout_inputs
from mvd_ds.runs.extract import extract
from mvd_ds.runs.extracting import dense
from mvd_ds.runs.extracting.dense import dense_readout

SHAPE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8}
FRAMES = 8


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample set, which has the digit's position and whether it covers a pixel beside its clips, and tokens of a network."""
    root = tmp_path_factory.mktemp("dense")
    write_sample_set(root / "set", 24, 12, 0, size_px=32, frames=FRAMES)
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
    """Return inputs and what they are to predict of every video, in float64."""
    found = []
    for array, tokens, cells in dense._open(sample / split).videos(target, classes):
        assert cells.is_known.all()
        found.append((readout_inputs(tokens[None], array.is_of_frames, 2)[0].double().numpy(), cells.wanted))
    return found


@pytest.mark.parametrize(("target", "classes"), [("position", None), ("mask", 2)])
def test_a_read_out_is_the_ridge_regression_of_scikit_learn(sample: Path, target: str, classes: int | None) -> None:
    found = dense_readout(sample / "train", sample / "val", target)
    known, unseen = (examples(sample, split, target, classes) for split in ("train", "val"))
    tokens, wanted = (np.concatenate(parts) for parts in zip(*known, strict=True))
    deviation = tokens.std(0)
    model = Ridge(alpha=found.penalty * len(tokens)).fit(tokens / deviation, wanted)
    predicted = np.concatenate([model.predict(one / deviation) for one, _ in unseen])
    true = np.concatenate([one for _, one in unseen])
    if classes is None:
        np.testing.assert_allclose(found.per_channel, r2_score(true, predicted, multioutput="raw_values"), atol=1e-6)
        assert found.tokens == 12 * 4 and found.second == pytest.approx(abs(true - predicted).mean())
    else:
        assert found.score == pytest.approx(accuracy_score(true.argmax(1), predicted.argmax(1)), abs=1e-3)
        ious = jaccard_score(true.argmax(1), predicted.argmax(1), average=None)
        np.testing.assert_allclose(found.per_channel, ious, atol=5e-3)
        assert found.tokens == 12 * 64
    assert found.low <= found.score <= found.high
    assert found.videos == 12 and found.penalty in DenseSettings().penalties


def test_tokens_that_hold_the_answer_give_all_of_it(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = dense._TokenFolder.videos

    def told(*arguments: object) -> object:
        for array, tokens, cells in original(*arguments):  # type: ignore[arg-type]
            answer = torch.from_numpy(cells.wanted @ np.array([[1.0, 2.0], [0.5, -1.0]]))[:, None, None]
            yield array, torch.cat((tokens[..., :3], answer.expand(-1, *tokens.shape[1:3], -1).float()), -1), cells

    monkeypatch.setattr(dense._TokenFolder, "videos", told)
    found = dense_readout(sample / "train", sample / "val", "position", parts=1)
    assert found.score > 0.999999 and found.penalty == min(DenseSettings().penalties)


def test_faults_are_one_line(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"000000\.npz: the target of .*: holds no array depth"):
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
