"""Dense probes on real files: the right numbers, the right place and time, any number of processes, interruption, the report."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

import launching
import mvd_ds
from mvd_ds.config import ConfigError, ProbeRecipe, load_recipe
from mvd_ds.data.synthetic.writer import write_sample_set
from mvd_ds.evaluation.dense_inputs import readout_inputs
from mvd_ds.models.building import open_encoder
from mvd_ds.models.classifiers.pooling import clip_tokens
from mvd_ds.runs.probing.head_states import KeptHeads
from mvd_ds.runs.probing.probe import probe
from mvd_ds.tools.report.report import write_report
from mvd_ds.training.step import normalise, to_unit

SHAPE = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_px": 8}
FRAMES, SIDE = 8, 32
PRODUCTS = ("predictions.csv", "dense.npz", "dense.json")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dense")
    write_sample_set(root / "set", 20, 10, 0, size_px=SIDE, frames=FRAMES)
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, FRAMES, SIDE, seed=1), root / "model")
    return root


def loaded(sample: Path, output: Path, *more: str) -> ProbeRecipe:
    found = load_recipe("quickstart_probe", settings(sample, output, *more), "probe")
    assert isinstance(found, ProbeRecipe)
    return found


def settings(sample: Path, output: Path, *more: str) -> list[str]:
    timm = "{network: timm:vit_tiny_patch16_224, weights: random, every_frames: 4, input_px: 48}"
    return [
        f"data.manifest={sample / 'set' / 'train.txt'}",
        f"validation_manifest={sample / 'set' / 'val.txt'}",
        "data.workers=0",
        f"data.clip={{frames: {FRAMES}, stride_frames: 1, size_px: {SIDE}}}",
        f"models={{a: {{weights: {sample / 'model'}}}, t: {timm}}}",
        "task=dense",
        "dense={targets: [position, mask], pictures: 2}",
        "blocks=[0, 1]",
        "compare=[[a, pixels], ['a@1', 't@0']]",
        "seeds=[0, 1]",
        "bootstrap_draws=50",
        "batch=4",
        "run.save_every_steps=2",
        f"run.output={output}",
        *more,
    ]


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in PRODUCTS}


@pytest.fixture(scope="module")
def untouched(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untouched") / "run"
    probe(loaded(sample, folder), "x")
    return folder


def test_scores_are_those_of_scikit_learn_on_tokens_taken_by_hand(sample: Path, untouched: Path) -> None:
    encoder = open_encoder(str(sample / "model"), FRAMES, SIDE)
    clip_settings = {"frames": FRAMES, "stride_frames": 1, "size_px": SIDE}

    def examples(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        inputs, wanted = [], []
        for index in range(count):
            clip = mvd_ds.read_clip(sample / "set" / split / f"{index:06d}.mp4", clip_settings)
            tokens = clip_tokens(encoder, normalise(to_unit(clip), torch.float32), -1).detach()
            inputs.append(readout_inputs(tokens.unflatten(1, (4, 4, 4)), True, 2)[0].double().numpy())
            with np.load(sample / "set" / split / f"{index:06d}.npz") as arrays:
                wanted.append(arrays["position"].astype(np.float64).reshape(4, 2, 2).mean(1))
        return np.concatenate(inputs), np.concatenate(wanted)

    found = json.loads((untouched / "dense.json").read_text())["scores"]["a@1"]["position"]
    (known, wanted), (unseen, true) = examples("train", 20), examples("val", 10)
    deviation, expected = known.std(0), []
    for penalty in found["penalties"]:
        model = Ridge(alpha=penalty * len(known)).fit(known / deviation, wanted)
        expected.append(r2_score(true, model.predict(unseen / deviation)))
    np.testing.assert_allclose(found["per_seed"], expected, atol=1e-4)


def test_every_network_has_its_blocks_and_the_one_that_training_clips_chose(untouched: Path) -> None:
    found = json.loads((untouched / "dense.json").read_text())
    assert list(found["scores"]) == ["a", "t", "pixels", "a@0", "a@1", "t@0", "t@1"]
    assert found["grids"] == {"a": [4, 4, 4], "t": [2, 3, 3]} and found["targets"]["mask"]["kind"] == "classes"
    with np.load(untouched / "dense.npz") as sums:
        for seed, block in enumerate(found["scores"]["a"]["position"]["blocks"]):
            np.testing.assert_array_equal(sums["a/position"][seed], sums[f"{block}/position"][seed])
    assert set(found["comparisons"]) == {"a minus pixels", "a@1 minus t@0"}
    rows = (untouched / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 7 * 2 * 2 * 10 and not (untouched / "heads").exists()


def test_the_report_shows_scores_and_predictions_beside_the_truth(sample: Path, untouched: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    probe(loaded(sample, again, "run.seed=1"), "x")
    write_report([untouched], tmp_path / "one")
    page = (tmp_path / "one" / "report.html").read_text()
    assert "Read out of tokens" in page and "variance explained" in page and "over depth" in page
    assert page.count("clip 1 position") and "None of these runs measured accuracy" not in page
    write_report([untouched, again], tmp_path / "both")
    (pooled,) = json.loads((tmp_path / "both" / "report.json").read_text())["dense"].values()
    scores = [json.loads((run / "dense.json").read_text())["scores"]["a"]["mask"]["score"] for run in (untouched, again)]
    cell = pooled["scores"]["a"]["mask"]
    assert (
        pooled["trainings"] == 2 and cell["score"] == pytest.approx(np.mean(scores)) and cell["per_seed"] == pytest.approx(scores)
    )


def test_interrupted_and_resumed_equals_untouched(
    sample: Path, untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = KeptHeads.save

    def interrupted(self: KeptHeads, step: int, states: dict) -> None:
        save(self, step, states)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(KeptHeads, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            probe(loaded(sample, tmp_path / "run"), "x")
    probe(loaded(sample, tmp_path / "run"), "x")
    assert "heads of dense go on after step 2" in capsys.readouterr().out
    assert digests(tmp_path / "run") == digests(untouched)


def test_two_processes_give_the_files_of_one(sample: Path, untouched: Path, tmp_path: Path) -> None:
    launching.ranks(2, "probe", "quickstart_probe", *settings(sample, tmp_path / "run"))
    assert digests(tmp_path / "run") == digests(untouched)


def test_targets_of_another_length_or_type_are_one_line(sample: Path, tmp_path: Path) -> None:
    for split, count in (("train", 20), ("val", 10)):
        for index in range(count):
            frames = FRAMES + (split == "val" and index == 9)
            np.save(sample / "set" / split / f"{index:06d}.long.npy", np.zeros(frames, np.int64) + index % 2)
            values = np.zeros(FRAMES) if split == "train" else np.zeros((FRAMES, 2))
            np.save(sample / "set" / split / f"{index:06d}.wide.npy", values + index)
    with pytest.raises(ConfigError, match=r"000009\.long\.npy: has 9 entries, .*000009\.mp4 has 8 frames"):
        probe(loaded(sample, tmp_path / "long", "dense.targets=[long]"), "x")
    with pytest.raises(ConfigError, match=r"wide\.npy: has another type or shape than the first training video's wide"):
        probe(loaded(sample, tmp_path / "wide", "dense.targets=[wide]"), "x")
    with pytest.raises(ConfigError, match=r"000000\.npz: the target of .*: holds no array depth"):
        probe(loaded(sample, tmp_path / "none", "dense.targets=[depth]"), "x")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task=labels", "dense says what read-outs of task: dense predict; set task=dense, too"),
        ("dense.targets=[]", "dense.targets: name at least one array"),
        ("heads=[knn]", "heads is for probes of labels"),
        ("models.t.time=mean", "models.t.time mean: each token is compared"),
        ("compare=[[a, b]]", "compare names 'b', which is not among a, pixels, t"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(sample: Path, tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loaded(sample, tmp_path / "run", override)
