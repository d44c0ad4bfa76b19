"""Zero-shot by words and retrieval by captions on real files, with the text tower of the run itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import mvd_ds
from mvd_ds.config import ConfigError, EvaluateRecipe, TrainingRecipe, load_recipe
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.synthetic.motion import HOW
from mvd_ds.data.tokens import text_encoder
from mvd_ds.data.words import Words, read_words
from mvd_ds.files import read_json
from mvd_ds.models.text.captioned import open_by_words, open_captioned
from mvd_ds.models.weights import save_model
from mvd_ds.runs.evaluate import evaluate
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.convert import convert
from mvd_ds.tools.export import export
from mvd_ds.tools.report.evaluation_page import write_evaluation_page
from text_folders import write_text_folder

SMALL = [
    *("data.clip.frames=4", "data.clip.size_px=32", "data.clip.stride_frames=2", "model.size=null", "model.embed_dim=32"),
    *("model.depth=2", "model.num_heads=2", "model.patch_px=8", "batch.micro=4", "batch.global=4", "engine.precision=fp32"),
    *("language.embed_dim=16", "language.text.context=64"),
]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has not learnt much, with a shared text tower."""
    recipe = load_recipe("msclip_base", SMALL)
    assert isinstance(recipe, TrainingRecipe)
    folder = tmp_path_factory.mktemp("captioned")
    save_model(folder / "model", build_predictor(recipe).state_dict(), recipe, {"step": 0})
    return folder


def test_a_test_by_words_and_its_page(captioned: Path, videos: Path, tmp_path: Path) -> None:
    overrides = [f"weights={captioned / 'model'}", f"words={videos / 'words_how.json'}", f"data.manifest={videos / 'val.jsonl'}"]
    overrides += [
        "label=how",
        "data.workers=0",
        "views={segments: 2, crops: 1}",
        "run.device=cpu",
        f"run.output={tmp_path / 'out'}",
    ]
    recipe = load_recipe("evaluate_2x3", overrides)
    assert isinstance(recipe, EvaluateRecipe)
    folder = evaluate(recipe, "evaluate_2x3")
    results = read_json(folder / "evaluation.json")
    assert results["classes"] == list(HOW) and results["samples"] == 16
    model, preprocessing = open_captioned(captioned)
    encode, words = text_encoder(model.language.settings.text), read_words(videos / "words_how.json")
    rows = functional.normalize(torch.stack([model.texts(texts, encode).mean(dim=0) for texts in words.texts]), dim=-1)
    refs = read_manifest(videos / "val.jsonl").refs
    classifier = mvd_ds.VideoClassifier(captioned, words=videos / "words_how.json")
    vectors = []
    with torch.no_grad():
        for index in range(16):
            clips = classifier.clips(refs.path(index), 2)
            views = model(classifier.network.normalised(clips, torch.float32))
            vectors.append(functional.normalize(views.mean(dim=0), dim=-1))
            if index == 3:
                expected = (model.scale * views @ rows.T).softmax(dim=-1).mean(dim=0)
                torch.testing.assert_close(classifier.probabilities(refs.path(index), 2), expected)
    assert preprocessing.clip.frames == 4
    found = results["retrieval"]
    texts = list(dict.fromkeys(text for index in range(16) for text in refs.captions(index)))
    assert (found["videos"], found["texts"]) == (16, len(texts))
    scores = torch.stack(vectors) @ model.texts(texts, encode).T
    first = [texts[int(row.argmax())] in refs.captions(index) for index, row in enumerate(scores)]
    assert found["video_to_text"]["r1"] == pytest.approx(sum(first) / 16)
    write_evaluation_page(folder)
    page = (folder / "evaluation.html").read_text()
    other = load_recipe("evaluate_2x3", [*overrides, f"words={videos / 'words_what.json'}", f"run.output={tmp_path / 'no'}"])
    with pytest.raises(ConfigError, match=r"words .*words_what.json, which name 0, 1, .*: .* names 8 classes .orbit") as told:
        evaluate(other, "evaluate_2x3")
    assert "\n" not in str(told.value) and not (tmp_path / "no").exists()
    assert results["words"] == str(videos / "words_how.json") and f"<code>{results['words']}</code>" in page
    assert "Retrieval" in page and "R@5" in page and f"{len(texts)} texts find videos" in page


def test_what_has_learnt_no_captions_knows_no_words(captioned: Path, videos: Path, tmp_path: Path) -> None:
    recipe = load_recipe("videomae_small", [setting for setting in SMALL if not setting.startswith("language")])
    assert isinstance(recipe, TrainingRecipe)
    save_model(tmp_path / "model", build_predictor(recipe).state_dict(), recipe, {"step": 0})
    with pytest.raises(ConfigError, match="has learnt from no captions, so it knows no words; train it with language"):
        mvd_ds.VideoClassifier(tmp_path, words=videos / "words_how.json")
    with pytest.raises(ConfigError, match="give either them or text vectors"):
        mvd_ds.VideoClassifier(captioned, words=videos / "words_how.json", text_vectors="x")
    encoder = mvd_ds.load(captioned)
    assert encoder.features(next((videos / "val").glob("*.mp4"))).shape == (1, 32), "the encoder is one as any other"


def test_the_scale_of_cosines_is_that_of_the_run_in_any_precision(captioned: Path) -> None:
    words = Words(("zero", "one"), (("zero",), ("one",)), ("{}",))
    model, _ = open_by_words(captioned, words, text_encoder, torch.bfloat16)
    assert model.scale == open_captioned(captioned)[0].scale == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("text", ["bytes", "tokenizer", "folder"])
def test_a_model_folder_and_an_exported_one_are_whole_elsewhere(text: str, videos: Path, tmp_path: Path) -> None:
    """A folder that is moved, its sources gone, names the same classes by words; so do its export, and that one exported."""
    sources = tmp_path / "sources"
    write_text_folder("clip", sources)
    chosen = {
        "bytes": ["language.text.context=64"],
        "tokenizer": [f"language.text.tokenizer={sources / 'tokenizer.json'}", "language.text.context=64"],
        "folder": [f"language.text={{weights: {sources}}}"],
    }[text]
    small = [setting for setting in SMALL if not setting.startswith("language.text")]
    recipe = load_recipe("clip_base", [*small, *chosen])
    assert isinstance(recipe, TrainingRecipe)
    save_model(tmp_path / "run" / "model", build_predictor(recipe).state_dict(), recipe, {"step": 0})
    words, video = videos / "words_how.json", next((videos / "val").glob("*.mp4"))
    wanted = mvd_ds.VideoClassifier(tmp_path / "run", words=words).probabilities(video)
    export(tmp_path / "run", tmp_path / "exported", [])
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(sources)
    export(tmp_path / "exported", tmp_path / "again", [])
    convert(tmp_path / "moved", tmp_path / "converted")
    for folder in ("moved", "exported", "again", "converted"):
        found = mvd_ds.VideoClassifier(tmp_path / folder, words=words).probabilities(video)
        torch.testing.assert_close(found, wanted, msg=folder)
