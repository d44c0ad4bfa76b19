"""A classifier's folder holds all that it takes to use it."""

from __future__ import annotations

import json

import pytest
import torch

import mvd_ds
from mvd_ds.config import ClipSettings, ConfigError, PreprocessingSettings
from mvd_ds.models import save_model
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, open_classifier, save_classifier, trained_clip
from mvd_ds.runs.student import build_predictor

SHAPE = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8}
CLIP = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
CARD = ClassifierCard(
    ("jump", "run", "sit"), PreprocessingSettings(clip=ClipSettings(frames=4, stride_frames=2, size_px=16)), "how"
)


def classifier(**more):
    model = mvd_ds.build_classifier(SHAPE, 3, 4, 16, norm_eps=1e-4, **more).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.fixture
def folder(tmp_path):
    model = classifier()
    save_classifier(tmp_path / "model", model, model.state_dict(), CARD, {"step": 7})
    return tmp_path / "model"


@pytest.mark.parametrize("pooling", ["mean", "max", {"kind": "ggem", "exponent": 2.0, "place": "after_norm"}])
def test_what_was_saved_is_opened(tmp_path, pooling):
    model = classifier(pooling=pooling)
    save_classifier(tmp_path / "model", model, model.state_dict(), CARD, {"step": 7})
    opened, card = open_classifier(tmp_path / "model")
    assert card == CARD and not opened.training
    assert opened.pooling.settings == model.pooling.settings and opened.norm.eps == 1e-4
    assert torch.equal(opened(CLIP), model(CLIP))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["step"] == 7


def test_a_classifier_of_others_opens_with_what_is_known(tmp_path):
    model = mvd_ds.build_classifier(SHAPE | {"position": "sinusoid1d"}, 3, 4, 16)
    mvd_ds.save(model, tmp_path / "hf", "huggingface")
    _, card = open_classifier(tmp_path / "hf")
    assert card.classes == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert (card.preprocessing.clip.frames, card.preprocessing.clip.size_px, card.label) == (4, 16, "label")
    mvd_ds.save(model, tmp_path / "mvd.safetensors", "mvd_ds")
    assert open_classifier(tmp_path / "mvd.safetensors")[1].classes == ("0", "1", "2")


def test_a_network_says_which_clips_it_was_trained_on(folder, tmp_path, video_recipe):
    assert trained_clip(folder) == CARD.preprocessing.clip
    save_model(tmp_path / "run", build_predictor(video_recipe).state_dict(), video_recipe, {})
    assert trained_clip(tmp_path / "run") == video_recipe.data.clip
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, 6, 24), tmp_path / "encoder")
    assert trained_clip(tmp_path / "encoder") == ClipSettings(frames=6, size_px=24)
    image = {"kind": "image", "tubelet_frames": 1, "position": "sincos2d"}
    mvd_ds.save(mvd_ds.build_encoder(SHAPE | image, size_px=24), tmp_path / "image")
    assert trained_clip(tmp_path / "image") == ClipSettings(size_px=24), "frames are for the user to say"


def test_what_is_stated_goes_over_what_is_known():
    stated = ClipSettings(stride_frames=1)
    assert stated.over(CARD.preprocessing.clip) == CARD.preprocessing.clip.model_copy(update={"stride_frames": 1})
    assert ClipSettings().over(CARD.preprocessing.clip) == CARD.preprocessing.clip
    assert stated.over(ClipSettings(stride_seconds=0.2)).stride_seconds is None


def test_other_formats_hold_no_other_pooling(tmp_path):
    with pytest.raises(ConfigError, match=r"pooling\.kind is max and would have to be mean"):
        mvd_ds.save(classifier(pooling="max"), tmp_path / "hf", "huggingface")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["a", "b"]}, "classes: it takes a list of 3 names"),
        ({"preprocessing": {"clip": {"frames": 8, "size_px": 16}}}, "preprocessing.clip.frames is 8, but the network is for 4"),
        ({"preprocessing": {"clips": {}}}, "preprocessing: Extra inputs are not permitted"),
    ],
)
def test_a_damaged_description_is_one_line(folder, change, words):
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError) as error:
        open_classifier(folder)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_classifier_is_refused(tmp_path):
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, 4, 16), tmp_path / "encoder")
    with pytest.raises(ConfigError, match="has no class head"):
        open_classifier(tmp_path / "encoder")
    model = classifier()
    with pytest.raises(ConfigError, match="2 names for 3 classes"):
        save_classifier(tmp_path / "x", model, model.state_dict(), CARD._replace(classes=("a", "b")), {})
