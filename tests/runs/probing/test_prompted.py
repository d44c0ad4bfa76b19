"""Heads of prompts in ``probe`` on real files: drawn and several views, interruption, and ``evaluate`` of what is left."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from mvd_ds.config import PROMPT_HEADS, ConfigError, EvaluateRecipe, load_recipe
from mvd_ds.files import read_json
from mvd_ds.models.text.captioned import open_captioned
from mvd_ds.runs.evaluate import evaluate
from mvd_ds.runs.probing import prompted
from mvd_ds.runs.probing.head_states import KeptHeads
from mvd_ds.runs.probing.probe import probe
from prompted_runs import probe_settings, probed, results_of, write_captioned


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioned(tmp_path_factory.mktemp("captioned") / "model")


@pytest.fixture(scope="module")
def untouched(videos: Path, captioned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untouched") / "run"
    with pytest.MonkeyPatch.context() as patched:
        found, base = [], prompted._base
        patched.setattr(prompted, "_base", lambda *given: found.append(base(*given)) or found[-1])
        probe(probed(videos, captioned, folder), "x")
    (towers,), expected = (one.towers for one in found), open_captioned(captioned)[0].state_dict()
    assert towers is not None and towers.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in towers.state_dict().items()), "towers are not touched"
    return folder


def test_evaluate_gives_the_answers_of_the_probe(untouched: Path, videos: Path, tmp_path: Path) -> None:
    with open(untouched / "predictions.csv", newline="") as file:
        told = list(csv.DictReader(file))
    probes = read_json(untouched / "probes.json")["probes"]
    assert set(probes) == {f"student:{head}" for head in ("zero_shot", *PROMPT_HEADS)}
    for head in PROMPT_HEADS:
        weights = untouched / "prompts" / f"student.{head}.how.seed-0.safetensors"
        given = [f"weights={weights}", f"data.manifest={videos / 'val.txt'}", "label=how", "views={segments: 2, crops: 2}"]
        given += ["data.workers=0", "run.device=cpu", "precision=fp32", f"run.output={tmp_path / head}"]
        recipe = load_recipe("evaluate_5x3", given, "evaluate")
        assert isinstance(recipe, EvaluateRecipe)
        folder = evaluate(recipe, "x")
        classes = read_json(folder / "evaluation.json")["classes"]
        with open(folder / "predictions.csv", newline="") as file:
            found = [(classes.index(row["class_1"]), float(row["probability_1"])) for row in csv.DictReader(file)]
        wanted = [(int(row["answer"]), float(row["probability"])) for row in told if row["probe"] == f"student:{head}"]
        assert [name for name, _ in found] == [name for name, _ in wanted], head
        assert [share for _, share in found] == pytest.approx([share for _, share in wanted], abs=1e-5), head


def test_interrupted_and_resumed_equals_untouched(
    videos: Path, captioned: Path, untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = KeptHeads.save, list[int]()

    def interrupted(self: KeptHeads, step: int, states: dict) -> None:
        save(self, step, states)
        saved.append(step)
        if len(saved) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeptHeads, "save", interrupted)
    recipe = probed(videos, captioned, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        probe(recipe, "x")
    probe(recipe, "x")
    assert results_of(tmp_path / "run") == results_of(untouched)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["prompt.words={hwo: words.json}"], "prompt.words.hwo: there is no such label; did you mean 'how'"),
        (["prompt.start=null", "prompt.context=70"], "prompts: 70 learned vectors and the name"),
        (["prompt.blocks=3"], "prompt.blocks 3: the encoder has 2"),
        (["order=[reversed]"], "order: zero_shot reads the names of classes, and ways of playing have none"),
    ],
)
def test_bad_settings_are_one_line(more: list[str], said: str, videos: Path, captioned: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as fault:
        probe(probed(videos, captioned, tmp_path / "run", *more), "x")
    assert said in str(fault.value) and len(str(fault.value).splitlines()) <= 2


def test_words_are_read_before_any_clip(videos: Path, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvd_ds.runs.probing.probe.read_vectors", lambda *given: pytest.fail("clips were read"))
    (tmp_path / "words.json").write_text('{"classes": ["a"], "templates": ["a {digit}"]}')
    with pytest.raises(ConfigError, match=r"words.json: template 'a \{digit\}' has no \{\}"):
        probe(probed(videos, captioned, tmp_path / "run", f"prompt.words={{how: {tmp_path / 'words.json'}}}"), "x")


def test_a_label_of_one_class_is_one_line(videos: Path, captioned: Path, tmp_path: Path) -> None:
    given = probe_settings(videos, captioned, tmp_path / "run")
    manifest = Path(given[0].partition("=")[2])
    lines = [line.rpartition(" ")[0] + " 0" if not line.startswith("#") else line for line in manifest.read_text().splitlines()]
    (tmp_path / "one.txt").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="show"):
        probe(probed(videos, captioned, tmp_path / "run", f"data.manifest={tmp_path / 'one.txt'}"), "x")
