"""An exported folder classifies as the original, here and in other runtimes, for any batch."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

import mvd_ds
from classifiers import write_classifier
from mvd_ds.cli import main
from mvd_ds.config import ConfigError, PreprocessingSettings
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, save_classifier
from mvd_ds.models.classifiers.pooling import clip_features
from mvd_ds.tools import graphs as writing
from mvd_ds.tools.commands.export import add_options, run
from mvd_ds.tools.export import export
from video_files import write_video

CLIPS = torch.randint(0, 256, (5, 3, 4, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module", params=["ggem", "attention", "class queries"])
def exported(tmp_path_factory, request):
    """A run's folder whose classifier pools by GGeM or by learned attention, exported with both graphs."""
    run = tmp_path_factory.mktemp("run")
    per_class = {"kind": "attention", "queries": "class", "layer_scale": 0.5}
    write_classifier(run / "model", pooling=per_class if request.param == "class queries" else request.param)
    export(run, run / "out", ["torch", "onnx"])
    return run


@torch.no_grad()
def test_the_folder_opens_and_says_the_same(exported):
    original, opened = mvd_ds.load(exported / "model"), mvd_ds.load(exported / "out")
    assert opened.classes == original.classes and opened.preprocessing == original.preprocessing
    assert torch.equal(opened.network(CLIPS), original.network(CLIPS))
    files = {"config.json", "model.safetensors", "model.pt2", "model.onnx"}
    assert {path.name for path in (exported / "out").iterdir()} == files
    assert {path.name for path in exported.iterdir()} == {"model", "out"}, "nothing is left beside it"
    graphs = json.loads((exported / "out" / "config.json").read_text())["graphs"]
    assert all(graph["largest_difference"] <= writing.TOLERANCE for graph in graphs.values())


@torch.no_grad()
def test_graphs_take_pixels_in_any_number(exported):
    import onnxruntime

    expected = mvd_ds.load(exported / "model").network(CLIPS)
    program = torch.export.load(exported / "out" / "model.pt2").module()
    torch.testing.assert_close(program(CLIPS), expected, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession(exported / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"clip": CLIPS.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_onnx_names_its_classes_and_its_batch(exported):
    import onnx

    model = onnx.load(exported / "out" / "model.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["classes"]) == list(mvd_ds.load(exported / "model").classes) and facts["label"] == "how"
    assert json.loads(facts["preprocessing"])["clip"]["frames"] == 4
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["student", "video", "image"])
def test_students_and_encoders_give_features(tmp_path, kind):
    import onnxruntime

    shape = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 16}
    if kind == "student":
        model = mvd_ds.build_student(shape, frames=4, size_px=48)
    else:
        image = {"kind": "image", "tubelet_frames": 1, "position": "sincos2d", "cls_token": True} if kind == "image" else {}
        model = mvd_ds.build_encoder(shape | image, frames=4, size_px=48)
    mvd_ds.save(model, tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", ["torch", "onnx"])
    opened = mvd_ds.load(tmp_path / "out")
    clip = opened.preprocessing.clip
    clips = CLIPS[:, :, torch.arange(clip.frames) % 4]
    encoder = (model.encoder if kind == "student" else model).eval()
    expected = clip_features(encoder, mvd_ds.normalise(clips))
    torch.testing.assert_close(opened.network(clips), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.export.load(tmp_path / "out" / "model.pt2").module()(clips), expected, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (features,) = session.run(["features"], {"clip": clips.numpy()})
    torch.testing.assert_close(torch.from_numpy(features), expected, rtol=1e-4, atol=1e-4)
    video = write_video(tmp_path / "v.mp4", frames=16, width=64, height=48)
    assert opened.features(video, segments=2).shape == (2, 32)


def test_a_graph_that_says_something_else_is_not_written(tmp_path, monkeypatch):
    write_classifier(tmp_path / "model")
    file, packages, _ = writing.GRAPHS["torch"]
    monkeypatch.setitem(
        writing.GRAPHS, "torch", (file, packages, lambda traced, clips, path: lambda given: (traced.network(given) * 1.01,))
    )
    with pytest.raises(ConfigError, match=r"--graph torch: its logits differ from the original's by 1\.0e-02, more than 1e-04"):
        export(tmp_path / "model", tmp_path / "out", ["torch"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_for_transformers_have_the_names_of_the_classes(tmp_path, capsys):
    classifier = mvd_ds.build_classifier({"embed_dim": 32, "depth": 1, "num_heads": 2, "position": "sinusoid1d"}, 3, 4, 48)
    card = ClassifierCard(("cat", "dog", "owl"), PreprocessingSettings(clip={"frames": 4, "size_px": 48}))
    save_classifier(tmp_path / "run" / "model", classifier, classifier.state_dict(), card, {})
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "huggingface"]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "owl"} and config["label2id"]["owl"] == 2
    assert mvd_ds.load(tmp_path / "out").classes == card.classes, "read again here, too"
    with pytest.raises(ConfigError, match="--graph cannot stand beside --to huggingface; run it twice"):
        run(parsed(tmp_path / "run", tmp_path / "again", "--to", "huggingface", "--graph", "onnx"))
    with pytest.raises(ConfigError, match="format 'hugginface' is not written; did you mean 'huggingface'"):
        run(parsed(tmp_path / "run", tmp_path / "again", "--to", "hugginface"))


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(list(map(str, arguments)))


def test_faults_are_one_line(tmp_path, monkeypatch):
    folder = write_classifier(tmp_path / "model")
    with pytest.raises(ConfigError, match="is the source itself"):
        export(folder, tmp_path / "model", [])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="exists and is no model folder"):
        export(folder, tmp_path / "taken", [])
    monkeypatch.setattr(writing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--graph onnx: needs onnx, onnxscript, onnxruntime; pip install onnx onnx"):
        export(folder, tmp_path / "out", ["onnx"])
