"""The protocol of V-JEPA 2 on real files: blocks, views, a grid, interruption, and any number of processes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import launching
import mvd_ds
from classifiers import CLIP, SHAPE
from mvd_ds.config import ConfigError, ProbeRecipe, load_recipe
from mvd_ds.runs.probing.head_states import KeptHeads
from mvd_ds.runs.probing.probe import probe
from mvd_ds.tools.report.report import write_report


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, CLIP.frames, CLIP.size_px), folder)
    return folder


def settings(videos: Path, weights: Path, output: Path, *more: str) -> list[str]:
    timm = "{network: timm:vit_tiny_patch16_224, weights: random, every_frames: 4, input_px: 32, time: positions}"
    return [
        f"data.manifest={videos / 'train.txt'}",
        f"validation_manifest={videos / 'val.txt'}",
        "data.workers=0",
        *(f"data.clip.{key}={getattr(CLIP, key)}" for key in ("frames", "stride_frames", "size_px")),
        f"models={{a: {{weights: {weights}}}, t: {timm}}}",
        "compare=[['a@1:deep_attentive', 't@1:deep_attentive']]",
        "blocks=[0, 1]",
        "views={segments: 2, crops: 2}",
        "drawn={count: 2, flip: 0.5}",
        "order=[reversed]",
        "most_clips=32",
        "heads=[knn, deep_attentive]",
        "head={blocks: 2, heads: 2, epochs: 2, batch: 8, learning_rates: [1e-3, 1e-2], weight_decay: [0.01, 0.4], together: 3}",
        "seeds=[0]",
        "batch=6",
        "pixels=false",
        "run.save_every_steps=2",
        f"run.output={output}",
        *more,
    ]


def loaded(*overrides: str) -> ProbeRecipe:
    found = load_recipe("quickstart_probe", list(overrides), "probe")
    assert isinstance(found, ProbeRecipe)
    return found


def digests(folder: Path) -> dict[str, str]:
    names = ("predictions.csv", "correct.npz", "probes.json")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture(scope="module")
def untouched(videos: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untouched") / "run"
    probe(loaded(*settings(videos, weights, folder)), "x")
    return folder


def test_every_block_has_a_probe_and_the_report_a_curve(untouched: Path, tmp_path: Path) -> None:
    found = json.loads((untouched / "probes.json").read_text())
    blocks = [f"{model}@{block}" for model in "at" for block in (0, 1)]
    assert set(found["probes"]) == {f"{block}:{head}" for block in blocks for head in ("knn", "deep_attentive")}
    chosen = found["details"]["a@0:deep_attentive"]["how"]
    assert chosen["learning_rate"][0] in (1e-3, 1e-2) and chosen["weight_decay"][0] in (0.01, 0.4)
    assert found["encoders"]["t"]["network"] == "timm:vit_tiny_patch16_224" and found["encoders"]["t"]["depth"] == 12
    rows = (untouched / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * 2 * found["clips"]["held_out"] and not (untouched / "heads").exists()
    told = found["order"]["a@1:deep_attentive"]["reversed"]["told"]
    assert told["interval"][0] <= told["top1"] <= told["interval"][1] and told["chance"] == 0.5
    assert set(found["order"]) == set(found["probes"])
    write_report([untouched], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Sense of time" in page and "how, played so" in page
    assert "Encoders under one protocol" in page and "timm:vit_tiny_patch16_224" in page
    assert "Accuracy over depth" in page and "is best" in page and "target.blocks: [" in page


def test_interrupted_and_resumed_equals_untouched(
    videos: Path,
    weights: Path,
    untouched: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, save, saved = loaded(*settings(videos, weights, tmp_path / "run")), KeptHeads.save, []

    def interrupted(self: KeptHeads, step: int, states: dict) -> None:
        save(self, step, states)
        saved.append(step)
        if len(saved) in (1, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(KeptHeads, "save", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            probe(recipe, "x")
        assert not (tmp_path / "run" / "predictions.csv").exists()
    probe(recipe, "x")
    assert "heads of a.deep_attentive go on after step 2" in capsys.readouterr().out
    assert digests(tmp_path / "run") == digests(untouched)


def test_heads_of_other_settings_begin_anew(
    videos: Path,
    weights: Path,
    untouched: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save = KeptHeads.save

    def interrupted(self: KeptHeads, step: int, states: dict) -> None:
        save(self, step, states)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(KeptHeads, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            probe(loaded(*settings(videos, weights, tmp_path / "run", "head.batch=4")), "x")
    probe(loaded(*settings(videos, weights, tmp_path / "run")), "x")
    assert "heads of other settings or inputs begin anew" in capsys.readouterr().out
    assert digests(tmp_path / "run") == digests(untouched)


def test_two_processes_give_the_file_of_one(videos: Path, weights: Path, untouched: Path, tmp_path: Path) -> None:
    launching.ranks(2, "probe", "quickstart_probe", *settings(videos, weights, tmp_path / "run"))
    assert digests(tmp_path / "run") == digests(untouched)


def test_blocks_that_do_not_exist_and_heads_that_need_all_are_one_line(videos: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="blocks: vqt looks into all layers at once"):
        loaded(*settings(videos, weights, tmp_path / "run", "heads=[vqt]", "compare=[]"))
    with pytest.raises(ConfigError, match="heads: vqt looks into the layers of our own networks"):
        probe(loaded(*settings(videos, weights, tmp_path / "run", "heads=[vqt]", "blocks=last", "compare=[]")), "x")
    with pytest.raises(ConfigError, match=r"time mean: it sees whole clips"):
        one = f"models={{a: {{weights: {weights}, time: mean}}}}"
        probe(loaded(*settings(videos, weights, tmp_path / "other", one, "compare=[]")), "x")
