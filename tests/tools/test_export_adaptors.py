"""The heads of a run's teachers stay on its exported encoder: in Python, in files of features and in graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mvd_ds
from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.models.weights import save_model
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.export import export
from video_files import write_video

SMALL = ["size=null", "embed_dim=48", "depth=3", "num_heads=4", "patch_px=16", "weights=random"]
CLIPS = torch.randint(0, 256, (3, 3, 4, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))


def recipe(*overrides: str) -> TrainingRecipe:
    clip = ["data.clip.frames=4", "data.clip.size_px=64", "model.size=null", "model.embed_dim=64", "model.depth=2"]
    student = ["model.num_heads=2", "decoder.embed_dim=32", "decoder.num_heads=2", "teachers.image.input_px=64"]
    teachers = [f"teachers.{name}.{setting}" for name in ("image", "video") for setting in SMALL]
    more = ["teachers.video.more_targets.relations.kind=relations", "teachers.image.target.normalise=true"]
    found = load_recipe("mvd_base_from_base", [*clip, *student, *teachers, *more, *overrides])
    assert isinstance(found, TrainingRecipe)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose student predicts two kinds of features and relations, with random weights."""
    folder = tmp_path_factory.mktemp("run")
    settings = recipe()
    save_model(folder / "model", build_predictor(settings).state_dict(), settings, {})
    return folder


@torch.no_grad()
def test_the_folder_answers_as_the_trained_student_and_so_do_graphs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    export(run, run / "out", ["torch", "onnx"], adaptors=[])
    said = capsys.readouterr().out
    assert "adaptor video: 48 numbers for each token, in the space of video (random), blocks -1; learnt at masked tokens" in said
    assert "adaptor image" in said and "standardised per token, which cannot be undone" in said and "relations" not in said
    opened, student = mvd_ds.load(run / "out"), build_predictor(recipe()).eval()
    assert opened.adaptors == ("image", "video")
    visible = torch.arange(32).expand(3, 1, -1)
    for decoder in student.decoders.values():
        decoder.shape = decoder.shape._replace(tokens="visible")
    expected = student(mvd_ds.normalise(CLIPS), visible, visible[:, :, :0])
    session = onnxruntime.InferenceSession(run / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    graph = torch.export.load(run / "out" / "model.pt2").module()(CLIPS)
    for place, name in enumerate(opened.adaptors, 1):
        torch.testing.assert_close(opened.adapt(name, CLIPS), expected[name], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(graph[place], expected[name], rtol=1e-4, atol=1e-4)
        (answer,) = session.run([name], {"clip": CLIPS.numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), expected[name], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(graph[0], opened.network(CLIPS), rtol=1e-4, atol=1e-4)
    video = write_video(run / "v.mp4", frames=16, width=64, height=48)
    assert opened.adapt("video", video, segments=2).shape == (2, 32, 48)


@torch.no_grad()
def test_one_head_alone_stays_and_the_folder_is_an_encoder_for_all_others(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", [], adaptors=["video"])
    assert mvd_ds.load(tmp_path / "out").adaptors == ("video",)
    encoder, _ = mvd_ds.open_model(tmp_path / "out")
    torch.testing.assert_close(encoder(mvd_ds.normalise(CLIPS)), mvd_ds.load(run).network.encoder(mvd_ds.normalise(CLIPS)))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["vidoe"], "--adaptors vidoe: no output 'vidoe'; did you mean 'video'"),
        (["video_relations"], "the head of video_relations answers in no teacher's space"),
    ],
)
def test_a_head_that_cannot_stay_is_named(run: Path, tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        export(run, tmp_path / "out", [], adaptors=names)
    assert words in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "out").exists()
