"""The heads of a run's teachers stay on its exported encoder: in Python, in files of features and in graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mvd_ds
from adapted_runs import TOKENS, WIDTH, adapted_recipe, adapted_targets, write_run
from mvd_ds.config import ConfigError
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.export import export
from video_files import write_video

CLIPS = torch.randint(0, 256, (3, 3, 4, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
MORE = ["teachers.video.more_targets.relations.kind=relations", "teachers.image.target.normalise=true"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose student predicts two kinds of features and relations, with random weights."""
    return write_run(tmp_path_factory.mktemp("run"), *MORE)


@torch.no_grad()
def test_the_folder_answers_as_the_trained_student_and_so_do_graphs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    export(run, run / "out", ["onnx"], adaptors=[])
    said = capsys.readouterr().out
    assert "adaptor video: 40 numbers for each token, in the space of video (random), blocks -1; learnt at masked tokens" in said
    assert "adaptor image" in said and "standardised per token, which cannot be undone" in said and "relations" not in said
    opened, student = mvd_ds.load(run / "out"), build_predictor(adapted_recipe(*MORE)).eval()
    assert opened.adaptors == ("image", "video")
    visible = torch.arange(TOKENS).expand(3, 1, -1)
    for decoder in student.decoders.values():
        decoder.shape = decoder.shape._replace(tokens="visible")
    expected = student(mvd_ds.normalise(CLIPS), visible, visible[:, :, :0])
    session = onnxruntime.InferenceSession(run / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    for name in opened.adaptors:
        torch.testing.assert_close(opened.adapt(name, CLIPS), expected[name], rtol=1e-5, atol=1e-5)
        (answer,) = session.run([name], {"clip": CLIPS.numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), expected[name], rtol=1e-4, atol=1e-4)
    (features,) = session.run(["features"], {"clip": CLIPS.numpy()})
    torch.testing.assert_close(torch.from_numpy(features), opened.network(CLIPS), rtol=1e-4, atol=1e-4)
    video = write_video(run / "v.mp4", frames=16, width=64, height=48)
    assert opened.adapt("video", video, segments=2).shape == (2, TOKENS, WIDTH)


@torch.no_grad()
@pytest.mark.parametrize("scales", [("phi_s", "running"), ("running", "phi_s"), ("none", "clip")])
def test_what_a_target_standardises_comes_back(scales: tuple[str, str], tmp_path: Path) -> None:
    """An answer, standardised, is the prediction: of one block, and of two that are predicted each by itself."""
    parts = ["teachers.image.target.blocks=[0,1]", "teachers.image.target.mode=each"]
    asked = [f"teachers.{name}.target.standardise={scale}" for name, scale in zip(("image", "video"), scales, strict=True)]
    settings = adapted_recipe(*parts, *asked)
    export(write_run(tmp_path / "run", *parts, *asked), tmp_path / "out", [], adaptors=[])
    opened, student, targets = mvd_ds.load(tmp_path / "out"), build_predictor(settings).eval(), adapted_targets(settings)
    for decoder in student.decoders.values():
        decoder.shape = decoder.shape._replace(tokens="visible")
    visible = torch.arange(TOKENS).expand(3, 1, -1)
    predicted = student(mvd_ds.normalise(CLIPS), visible, visible[:, :, :0])
    for name, scale in zip(("image", "video"), scales, strict=True):
        answer = opened.adapt(name, CLIPS)
        again = answer if scale == "clip" else targets[name](answer)
        torch.testing.assert_close(again, predicted[name], rtol=1e-5, atol=1e-5)
        assert scale in ("none", "clip") or (answer - predicted[name]).abs().max() > 0.1


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
