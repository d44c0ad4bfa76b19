"""``convert``: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import pytest
import torch

import published
from mvd_ds.cli import main
from mvd_ds.config import TrainingRecipe, validate
from mvd_ds.models import save_model
from mvd_ds.models.classifiers.classifier_folder import open_classifier
from mvd_ds.runs.student import build_predictor, load_predictor


@pytest.fixture
def student(tmp_path):
    torch.save({"model": published.mvd_student()}, tmp_path / "mvd.pth")
    return tmp_path / "mvd.pth"


HEADS = ["--heads", "4", "--decoder-heads", "2"]


def test_it_prints_the_format_and_the_table(student, capsys):
    assert main(["convert", str(student), *HEADS]) == 0
    said = capsys.readouterr().out
    for line in (
        f"{student}: MVD student ('mvd')",
        "decoders: image -> 40, video -> 48; embed_dim 32, depth 2, num_heads 2",
        "clip: 6 frames of 24 px",
        "  blocks.#.attn.q_bias x3  (48,)  ->  encoder.blocks.#.attention.qkv.q_bias",
        "  pos_embed_vid  (1, 27, 32)  ->  ignored: fixed table of positions on grid (3, 3, 3)",
    ):
        assert line in said
    assert "wrote" not in said


def test_there_and_back_is_bit_exact(student, tmp_path, capsys):
    assert main(["convert", str(student), str(tmp_path / "ours"), *HEADS]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "back.pth"), "--to", "mvd"]) == 0
    assert f"wrote {tmp_path / 'back.pth'} ('mvd'" in capsys.readouterr().out
    back, state = torch.load(tmp_path / "back.pth", weights_only=True)["model"], published.mvd_student()
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_a_recipe_travels_along(tmp_path):
    recipe = validate(
        {
            "objective": "video_reconstruction",
            "data": {"clip": {"frames": 4, "size_px": 32}},
            "model": {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8},
            "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 1},
            "pixels": {},
            "schedule": {"steps": 2},
        },
        "test",
    )
    assert isinstance(recipe, TrainingRecipe)
    save_model(tmp_path / "model", build_predictor(recipe).state_dict(), recipe, {})
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "copy")]) == 0
    model, again = load_predictor(tmp_path / "copy")
    assert again == recipe
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), build_predictor(recipe).parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "huggingface", *HEADS], "position is sincos3d and would have to be sinusoid1d"),
        (["--to", "onnx", *HEADS], "format 'onnx' is not written"),
        (["--from", "caffe"], "format 'caffe' is not known"),
        (["--from", "videomae", *HEADS], "is not a whole file of VideoMAE pretraining ('videomae'): "),
        ([], "mvd.pth: the file does not say how many heads the encoder has; write one that does: python -m mvd_ds convert /"),
        (["--heads", "4", "--decoder-heads", "5"], "decoder.embed_dim 32 is not divisible by decoder.num_heads 5"),
        (["--heads", "7"], "embed_dim 48 is not divisible by num_heads 7"),
    ],
)
def test_faults_are_one_line_and_nothing_is_written(student, tmp_path, capsys, arguments, words):
    assert main(["convert", str(student), str(tmp_path / "out"), *arguments]) == 2
    printed, said = capsys.readouterr()
    assert words in said and said.count("\n") == 1 and not printed
    assert [path.name for path in tmp_path.iterdir()] == ["mvd.pth"]


def test_the_remedy_of_a_file_that_does_not_say_all_works(tmp_path, capsys):
    """`evaluate` and the others name the setting, or the command, that says what a fine-tuned file does not."""
    torch.save({"module": published.finetuned()}, tmp_path / "tuned.pth")
    assert main(["convert", str(tmp_path / "tuned.pth"), "--heads", "3"]) == 2
    said = capsys.readouterr().err
    assert "set format=videomae_finetuned or format=mvd_finetuned, or write a file that says it: " in said
    command = said.rpartition("python -m mvd_ds ")[2].split()
    assert main([*command[:2], str(tmp_path / "out"), *command[3:], "--heads", "3"]) == 0
    assert len(open_classifier(tmp_path / "out")[1].classes) == len(published.finetuned()["head.weight"])


def test_a_folder_is_not_replaced_by_a_file(student, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert main(["convert", str(student), str(tmp_path / "out"), "--to", "mvd", *HEADS]) == 2
    assert "is a folder, and format 'mvd' is the other" in capsys.readouterr().err


def test_a_damaged_file_is_not_converted(tmp_path, capsys):
    state = published.mvd_student()
    del state["blocks.1.mlp.fc2.bias"]
    torch.save({"model": state}, tmp_path / "mvd.pth")
    assert main(["convert", str(tmp_path / "mvd.pth"), str(tmp_path / "out"), *HEADS]) == 2
    assert "1 missing: blocks.1.mlp.fc2.bias" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_formats_are_listed(capsys):
    assert main(["convert", "nothing", "--to", "list"]) == 0
    assert "huggingface          folder: " in capsys.readouterr().out
