"""Any network gives tokens of one form: by blocks, views, frames and class tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mvd_ds
from mvd_ds.config import ConfigError, ProbeRecipe, TrainingRecipe, ViewSettings, validate
from mvd_ds.models.classifiers.pooling import clip_features, encoder_pooling
from mvd_ds.models.embed import sincos_1d
from mvd_ds.models.weights import save_model
from mvd_ds.runs.probing import token_rows
from mvd_ds.runs.probing.clips import ClipGroup
from mvd_ds.runs.probing.encoders import ProbedEncoder, _head_count, open_encoders
from mvd_ds.runs.probing.head_states import HeadStates
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.step import normalise, to_unit

SHAPE = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_px": 16}
IMAGE = {"kind": "image", "tubelet_frames": 1, "position": "sincos2d", "qkv_bias": "full", "cls_token": True}
CPU = torch.device("cpu")
CLIPS = torch.randint(0, 256, (2, 3, 2, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
"""Two videos of three segments and two crops, four frames each."""


def opened(model: dict[str, Any], **more: Any) -> ProbedEncoder:
    values = {"objective": "probe", "data": {"clip": {"frames": 4, "size_px": 32}}, "models": {"a": model}, "pixels": False}
    return open_encoders(ProbeRecipe.model_validate(values | more), CPU)["a"]


@pytest.fixture(scope="module", params=["video", "image"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    encoder = mvd_ds.build_encoder(SHAPE | (IMAGE if request.param == "image" else {}), 4, 32)
    mvd_ds.save(encoder, folder)
    return folder


def test_our_vectors_are_those_of_the_encoder_on_each_view(ours: Path) -> None:
    probed = opened({"weights": str(ours)})
    encoder = probed.encoder
    assert encoder is not None and probed.blocks == (2,) and len(encoder.blocks) == 3
    views = normalise(to_unit(CLIPS.flatten(0, 2)), torch.float32)
    expected = clip_features(encoder, views, encoder_pooling(encoder, ProbeRecipe.model_fields["pooling"].default))
    torch.testing.assert_close(probed.vectors(CLIPS)[0], expected.unflatten(0, (2, 6)).mean(1))


def test_an_untrained_network_is_that_of_its_seed_whatever_its_run_started_from(tmp_path: Path) -> None:
    values = {"objective": "video_reconstruction", "data": {"clip": {"frames": 4, "size_px": 32}}, "model": SHAPE, "pixels": {}}
    values |= {"schedule": {"steps": 1}}
    first = validate(values | {"run": {"seed": 1}}, "test")
    assert isinstance(first, TrainingRecipe)
    save_model(tmp_path / "first", build_predictor(first).state_dict(), first, {})
    later = validate(values | {"init": {"weights": str(tmp_path / "first")}}, "test")
    assert isinstance(later, TrainingRecipe)
    save_model(tmp_path / "later", build_predictor(later).state_dict(), later, {})
    drawn = build_predictor(later.model_copy(update={"init": None})).encoder.state_dict()
    encoders = {
        untrained: opened({"weights": str(tmp_path / "later"), "untrained": untrained}).encoder for untrained in (True, False)
    }
    same = {
        untrained: encoder is not None and all(torch.equal(value, drawn[name]) for name, value in encoder.state_dict().items())
        for untrained, encoder in encoders.items()
    }
    assert same == {True: True, False: False}


def test_networks_of_clips_leave_no_frame_out(tmp_path: Path) -> None:
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, 4, 32), tmp_path / "model")
    with pytest.raises(ConfigError, match=r"models\.a\.every_frames 2: it sees whole clips"):
        opened({"weights": str(tmp_path / "model"), "every_frames": 2})


def test_every_block_in_one_pass_is_each_block_alone(ours: Path) -> None:
    every = opened({"weights": str(ours)}, blocks="all")
    assert every.blocks == (0, 1, 2)
    together = every.clip_tokens(CLIPS).tokens
    for place, block in enumerate((0, 1, -1)):
        alone = opened({"weights": str(ours)}, blocks=(block,)).clip_tokens(CLIPS).tokens
        torch.testing.assert_close(together[:, place], alone[:, 0])
    assert not torch.allclose(together[:, 0], together[:, 2], atol=1e-2)
    torch.testing.assert_close(together[:, 2], opened({"weights": str(ours)}).clip_tokens(CLIPS).tokens[:, 0])


def test_segments_stand_side_by_side_and_crops_apart(ours: Path) -> None:
    probed = opened({"weights": str(ours)})
    shape, tokens = probed.shape(4, 3), probed.clip_tokens(CLIPS).tokens
    single = opened({"weights": str(ours)})
    front = shape.class_tokens // 3
    for segment in range(3):
        for crop in range(2):
            alone = single.clip_tokens(CLIPS[:, segment : segment + 1, crop : crop + 1]).tokens[:, 0, 0]
            patches = tokens[:, 0, crop, shape.class_tokens :].unflatten(1, (3, -1))[:, segment]
            torch.testing.assert_close(patches, alone[:, front:])
            torch.testing.assert_close(tokens[:, 0, crop, segment * front : (segment + 1) * front], alone[:, :front])


def test_frames_of_timm_are_tokens_with_or_without_time_or_a_mean() -> None:
    model = {"network": "timm:vit_tiny_patch16_224", "weights": "random", "every_frames": 2}
    plain, timed, mean = (opened(model | {"time": time}) for time in ("tokens", "positions", "mean"))
    assert plain.blocks == (11,) and plain.heads == 3, "the last of timm's blocks, a head for every 64 channels"
    tokens = plain.clip_tokens(CLIPS).tokens[:, 0, 1]
    assert tokens.shape == (2, 3 * 2 * 4, 192)
    by_frame = tokens.unflatten(1, (6, 4))
    table = torch.from_numpy(sincos_1d(torch.arange(6).numpy(), 192)).float()
    torch.testing.assert_close(timed.clip_tokens(CLIPS).tokens[:, 0, 1], (by_frame + table[:, None]).flatten(1, 2))
    torch.testing.assert_close(mean.clip_tokens(CLIPS).tokens[:, 0, 1], by_frame.mean(1))
    torch.testing.assert_close(plain.vectors(CLIPS[:, :, 1:2])[0], by_frame.mean((1, 2)))
    with_cls = opened(model, pooling={"kind": "cls"})
    assert with_cls.shape(4, 3).class_tokens == 6 and with_cls.vectors(CLIPS).shape == (1, 2, 192)


def test_networks_take_frames_of_their_own_size() -> None:
    probed = opened({"network": "timm:vit_tiny_patch16_224", "weights": "random", "input_px": 48, "every_frames": 4})
    assert probed.clip_tokens(CLIPS).tokens.shape == (2, 1, 2, 3 * 9, 192)


def test_a_folder_of_transformers_is_probed_by_its_name(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, patch_size=16, image_size=32, mlp_ratio=2
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "net")
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "BitImageProcessor"}
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(pixels))
    probed = opened({"network": f"hf:{tmp_path / 'net'}", "every_frames": 2}, blocks="all")
    assert probed.blocks == (0, 1, 2) and probed.heads == 2 and probed.model.weights == str(tmp_path / "net")
    assert probed.clip_tokens(CLIPS).tokens.shape == (2, 3, 2, 3 * 2 * 4, 24)


def test_a_folder_without_a_class_token_is_not_pooled_by_one(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, num_frames=4
    )
    transformers.VideoMAEModel(config).save_pretrained(tmp_path / "net")
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "VideoMAEImageProcessor"}
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(pixels))
    model = {"network": f"hf:{tmp_path / 'net'}"}
    assert opened(model).vectors(CLIPS).shape == (1, 2, 24)
    with pytest.raises(ConfigError, match=r"models\.a: pooling cls: hf:.* has no class token"):
        opened(model, pooling={"kind": "cls"})


def test_tokens_of_any_width_have_heads_that_divide_it() -> None:
    assert [_head_count(width) for width in (32, 384, 888, 1512, 200)] == [1, 6, 12, 21, 2]


@pytest.mark.parametrize("empty", [{"seeds": ()}, {"regularisations": ()}, {"head": {"learning_rates": ()}}])
def test_there_is_something_to_choose_from(empty: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        ProbeRecipe.model_validate({"objective": "probe", "models": {"a": {"weights": "w"}}} | empty)


def test_names_of_models_are_those_of_no_other_result(tmp_path: Path) -> None:
    for name in ("a:b", "pixels"):
        with pytest.raises(ValueError, match=rf"models\.{name}: results have names such as"):
            ProbeRecipe.model_validate({"objective": "probe", "models": {name: {"weights": "w"}}})
    recipe = ProbeRecipe.model_validate({"objective": "probe", "models": {"a/b": {"weights": "w"}, "a_b": {"weights": "w"}}})
    states = HeadStates(tmp_path, recipe, {}, Cluster(0, 1, CPU))
    assert states.of("a/b.attentive").folder != states.of("a_b.attentive").folder


def test_a_video_that_cannot_be_read_any_more_is_no_black_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"objective": "probe", "models": {"a": {"weights": "w"}}}
    ok = torch.tensor([True, False])
    group = ClipGroup(CLIPS, torch.zeros(2, 1), ok, ["x.mp4: timed out"])
    monkeypatch.setattr(token_rows, "read_groups", lambda *_: iter([group]))
    monkeypatch.setattr(token_rows.Rows, "_fits", lambda *_: True)
    rows = token_rows.Rows(None, "a", ProbeRecipe.model_validate(values), False, (2, 1), Cluster(0, 1, CPU))  # type: ignore[arg-type]
    make = rows._maker((None, []), ViewSettings(), token_rows.Row)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"x\.mp4: timed out; it could be read when the probe began"):
        next(iter(make([range(2)])))


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        ({"network": "timm:vit_tiny_patch16_nothing", "weights": "random"}, {}, r"models\.a\.network: timm has no network"),
        ({"network": "timm:vit_tiny_patch16_224", "weights": "random"}, {"blocks": (12,)}, r"\[12\] are outside models\.a"),
        ({"network": "timm:vit_tiny_patch16_224", "weights": "gone.pt"}, {}, r"models\.a\.weights"),
    ],
)
def test_networks_that_do_not_fit_are_one_line(model: dict[str, Any], more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as fault:
        opened(model, **more)
    assert "\n" not in str(fault.value)
