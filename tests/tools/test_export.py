"""An exported folder classifies as the original, here and in other runtimes, for any batch."""

from __future__ import annotations

import json

import pytest
import torch

import mvd_ds
from classifiers import write_classifier
from mvd_ds.config import ConfigError
from mvd_ds.tools import export as exporting
from mvd_ds.tools.export import export

CLIPS = torch.randint(0, 256, (5, 3, 4, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run's folder whose classifier pools by GGeM, exported with both graphs."""
    run = tmp_path_factory.mktemp("run")
    write_classifier(run / "model", pooling="ggem")
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
    assert all(graph["largest_difference"] <= exporting.TOLERANCE for graph in graphs.values())


@torch.no_grad()
def test_graphs_take_pixels_in_any_number(exported):
    import onnxruntime

    expected = mvd_ds.load(exported / "model").network(CLIPS)
    program = torch.export.load(exported / "out" / "model.pt2").module()
    torch.testing.assert_close(program(CLIPS), expected, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession(exported / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"clip": CLIPS.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_a_graph_that_says_something_else_is_not_written(tmp_path, monkeypatch):
    write_classifier(tmp_path / "model")
    file, packages, _ = exporting.GRAPHS["torch"]
    monkeypatch.setitem(
        exporting.GRAPHS, "torch", (file, packages, lambda network, clips, path: lambda given: network(given) * 1.01)
    )
    with pytest.raises(ConfigError, match=r"--graph torch: its logits differ from the original's by 1\.0e-02, more than 1e-04"):
        export(tmp_path / "model", tmp_path / "out", ["torch"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_faults_are_one_line(tmp_path, monkeypatch):
    folder = write_classifier(tmp_path / "model")
    with pytest.raises(ConfigError, match="is the source itself"):
        export(folder, tmp_path / "model", [])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="exists and is no model folder"):
        export(folder, tmp_path / "taken", [])
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--graph onnx: needs onnx, onnxscript, onnxruntime; pip install onnx onnx"):
        export(folder, tmp_path / "out", ["onnx"])
