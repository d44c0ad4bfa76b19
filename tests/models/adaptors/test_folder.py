"""Folders of encoders with adaptors: zero-shot classes by text vectors, and one line for what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mvd_ds
from adapted_runs import WIDTH, write_run
from mvd_ds.config import ConfigError
from mvd_ds.models.adaptors.folder import ADAPTORS_NAME, open_adapted, open_zero_shot
from mvd_ds.tools.export import export

SUMMARIES = [f"teachers.video.more_targets.summary.{item}" for item in ("kind=summary", "summary=mean")]
SUMMARIES.append("teachers.image.target.kind=summary")
CLIPS = torch.randint(0, 256, (3, 3, 4, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with a spatial adaptor and two summary adaptors of one width."""
    folder = tmp_path_factory.mktemp("adapted")
    export(write_run(folder / "run", *SUMMARIES), folder / "out", [], adaptors=[])
    return folder / "out"


def write_texts(path: Path, vectors: torch.Tensor, names: list[str]) -> Path:
    save_file({"text": vectors}, path, {"classes": json.dumps(names)})
    return path


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_cosines_with_the_answer_of_the_summary(adapted: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    texts = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    path = write_texts(tmp_path / "text.safetensors", texts, list("abcde"))
    network, card = open_zero_shot(adapted, path, "video_summary", dtype)
    answer = mvd_ds.load(adapted).adapt("video_summary", CLIPS)
    assert answer.shape == (3, WIDTH) and card.classes == tuple("abcde") and card.preprocessing.clip.size_px == 48
    expected = 100 * torch.nn.functional.cosine_similarity(answer[:, None], texts[None], dim=-1)
    found = network(mvd_ds.normalise(CLIPS).to(dtype))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 if dtype == torch.float32 else 1.5)


@pytest.mark.parametrize(
    ("adaptor", "width", "words"),
    [
        (None, WIDTH, "its summary adaptors are image (40 wide), video_summary (40 wide); vectors of"),
        (None, WIDTH + 1, "are 41 wide; text vectors are those of the adaptor's own teacher"),
        ("image", WIDTH + 1, "are 41 wide; text vectors are those of the adaptor's own teacher"),
        ("video", WIDTH, "adaptor 'video' answers for every token, and texts are compared with a vector of the clip"),
        ("vidoe", WIDTH, "there is no adaptor 'vidoe'; did you mean 'video'"),
    ],
)
def test_texts_of_another_space_are_refused(adapted: Path, tmp_path: Path, adaptor: str | None, width: int, words: str) -> None:
    path = write_texts(tmp_path / "text.safetensors", torch.ones(2, width), ["a", "b"])
    with pytest.raises(ConfigError) as error:
        open_zero_shot(adapted, path, adaptor)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_adaptors_says_how_to_make_them(tmp_path: Path) -> None:
    mvd_ds.save(mvd_ds.build_encoder({"embed_dim": 32, "depth": 1, "num_heads": 2}, 4, 48), tmp_path / "plain")
    with pytest.raises(ConfigError, match="has no adaptors; write them by: python -m mvd_ds export RUN"):
        open_adapted(tmp_path / "plain")
    with pytest.raises(ConfigError, match="this model has none; write them by"):
        mvd_ds.load(tmp_path / "plain").adapt("video", CLIPS)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"width": 0}, "config.json: adaptors.video.width: Input should be greater"),
        ({"width": 41}, "of another shape: decoders.video.head.weight"),
        ({"standardise": "running"}, "adaptor video is described with standardise running, but its inverse is missing"),
        ({"colour": "red"}, "config.json: adaptors.video.colour: Extra inputs"),
    ],
)
def test_a_description_that_does_not_fit_is_one_line(adapted: Path, tmp_path: Path, damage: dict[str, Any], words: str) -> None:
    config = json.loads((adapted / "config.json").read_text())
    config["adaptors"]["video"] |= damage
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("model.safetensors", ADAPTORS_NAME):
        (tmp_path / name).symlink_to(adapted / name)
    with pytest.raises(ConfigError) as error:
        open_adapted(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_encoder_is_stored_once(adapted: Path) -> None:
    assert all(name.split(".")[0] == "decoders" for name in load_file(adapted / ADAPTORS_NAME))
    assert all(name.split(".")[0] == "encoder" for name in load_file(adapted / "model.safetensors"))
