"""Zero-shot tests on real files: classes are told by a teacher's text vectors, in ``evaluate`` and in ``classify``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mvd_ds
from adapted_runs import write_run
from launching import alone
from mvd_ds.config import ConfigError, EvaluateRecipe, load_recipe
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.synthetic.motion import HOW
from mvd_ds.models.adaptors.text_vectors import read_text_vectors
from mvd_ds.runs import evaluate
from mvd_ds.tools.export import export
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.contents import contents_of


@pytest.fixture(scope="module")
def zero_shot(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with adaptors, and as text vectors of the 8 motions the answers to one training video of each."""
    folder = tmp_path_factory.mktemp("zero_shot")
    summary = [f"teachers.video.more_targets.summary.{item}" for item in ("kind=summary", "summary=mean")]
    export(write_run(folder / "run", *summary), folder / "out", [], adaptors=["video_summary"])
    opened, listed = mvd_ds.load(folder / "out"), read_manifest(videos / "train.txt")
    first = [int(np.flatnonzero(listed.labels[:, 1] == number)[0]) for number in range(len(HOW))]
    rows = torch.cat([opened.adapt("video_summary", listed.refs.path(index)) for index in first])
    rows = torch.nn.functional.normalize(rows - rows.mean(dim=0), dim=-1)
    save_file({"text": rows}, folder / "text.safetensors", {"classes": json.dumps(list(HOW)), "scale": "20"})
    return folder


def recipe(folder: Path, videos: Path, *overrides: str) -> EvaluateRecipe:
    asked = [f"weights={folder / 'out'}", f"text_vectors={folder / 'text.safetensors'}", f"data.manifest={videos / 'val.txt'}"]
    found = load_recipe("evaluate_2x3", [*asked, "data.workers=0", "data.clip.sampling=dense", "label=how", *overrides])
    assert isinstance(found, EvaluateRecipe)
    return found


def test_evaluate_and_classify_say_what_cosines_say(zero_shot: Path, videos: Path) -> None:
    settings, listed = recipe(zero_shot, videos), read_manifest(videos / "val.txt")
    network, card = evaluate._open(settings)
    settings = evaluate._with_clip_of(settings, card)
    label, labels = evaluate.class_numbers(settings, listed, card)
    assert label == "how" and labels.tolist() == listed.labels[:, 1].tolist()
    found, faults = evaluate._predict(
        settings, network, card, listed, [range(len(listed.refs))], Cluster(0, 1, torch.device("cpu"))
    )
    assert not faults and found.ok.all()
    classifier = mvd_ds.VideoClassifier(zero_shot / "out", text_vectors=zero_shot / "text.safetensors")
    assert classifier.classes == tuple(HOW)
    for place in (0, 7):
        path = listed.refs.path(int(found.videos[place]))
        probabilities = classifier.probabilities(path, segments=2, crops=3)
        np.testing.assert_allclose(found.probabilities[place], probabilities.numpy(), atol=1e-5)
        views = mvd_ds.load(zero_shot / "out").adapt("video_summary", path, segments=2, crops=3)
        texts = read_text_vectors(zero_shot / "text.safetensors").vectors
        cosines = torch.nn.functional.normalize(views, dim=-1) @ texts.T
        torch.testing.assert_close(probabilities, (20 * cosines).softmax(-1).mean(0))
    assert probabilities.max() > 2 / len(HOW), "the classes are told apart"


def test_classify_names_the_classes_of_the_texts(zero_shot: Path, videos: Path) -> None:
    video, text = next((videos / "val").glob("*.mp4")), zero_shot / "text.safetensors"
    done = alone("classify", str(zero_shot / "out"), str(video), "--text-vectors", str(text), "--top", "2")
    lines = done.stdout.splitlines()
    guesses = mvd_ds.VideoClassifier(zero_shot / "out", text_vectors=text).classify(video, 2)
    assert lines[lines.index(str(video)) + 1 :] == [f"  {100 * guess.probability:6.2f} %  {guess.name}" for guess in guesses]


def test_other_texts_are_another_test(zero_shot: Path, videos: Path, tmp_path: Path) -> None:
    """Names of classes are in the metadata, and a finished test with other names is not the same."""
    settings = recipe(zero_shot, videos)
    rows = torch.nn.functional.normalize(torch.ones(8, 40), dim=-1)
    digests = []
    for names in (list(HOW), [*HOW[1:], "rest"]):
        save_file({"text": rows}, tmp_path / "text.safetensors", {"classes": json.dumps(names)})
        changed = settings.model_copy(update={"text_vectors": str(tmp_path / "text.safetensors")})
        digests.append(contents_of(changed)["text_vectors"])
    assert len(set(digests)) == 2


def test_an_adaptor_without_texts_is_refused(videos: Path) -> None:
    with pytest.raises(ConfigError, match="adaptor video says in whose space text vectors are: set text_vectors, too"):
        load_recipe("evaluate_2x3", ["adaptor=video", f"data.manifest={videos / 'val.txt'}"])
    with pytest.raises(ConfigError, match="says in whose space text vectors are: give a file of them, too"):
        mvd_ds.VideoClassifier("model", adaptor="video")
