"""The fine-tuning recipes hold every number of the published scripts."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from mvd_ds.config import ConfigError, FinetuneRecipe, dump, load_recipe


class Published(NamedTuple):
    """One row of the table of published fine-tuning runs; batches count videos, of which each gives two clips."""

    size: str
    gpus: int
    videos: int
    accumulation: int
    peak_lr: float
    final_lr: float
    epochs: int
    layer_decay: float
    drop_path: float
    dropout: float
    checkpointing: int


#: Source: MVD's published fine-tuning scripts (ruiwang2021/mvd).
PUBLISHED = {
    "finetune_k400_small": Published("small", 16, 12, 2, 7.5e-4, 1.5e-6, 150, 0.75, 0.1, 0.0, 0),
    "finetune_k400_base": Published("base", 32, 6, 2, 7.5e-4, 1.5e-6, 75, 0.75, 0.1, 0.0, 0),
    "finetune_k400_large_400ep": Published("large", 32, 2, 8, 2e-3, 2e-6, 50, 0.75, 0.3, 0.5, 0),
    "finetune_k400_large": Published("large", 32, 16, 1, 2e-3, 2e-6, 50, 0.75, 0.3, 0.5, 1),
    "finetune_k400_huge": Published("huge", 32, 8, 1, 1e-3, 1e-6, 50, 0.75, 0.3, 0.5, 1),
    "finetune_ssv2_small": Published("small", 32, 12, 1, 1.5e-3, 1.5e-6, 40, 0.7, 0.1, 0.0, 0),
    "finetune_ssv2_base": Published("base", 16, 24, 1, 7.5e-4, 1.5e-6, 30, 0.75, 0.1, 0.0, 1),
    "finetune_ssv2_large": Published("large", 16, 16, 1, 5e-4, 1e-6, 30, 0.75, 0.3, 0.5, 1),
    "finetune_ssv2_huge": Published("huge", 16, 8, 1, 2.5e-4, 5e-6, 30, 0.75, 0.3, 0.5, 1),
    # VideoMAE's script for UCF101.
    "finetune_ucf101": Published("base", 8, 16, 1, 2.5e-4, 5e-6, 100, 0.7, 0.2, 0.5, 1),
    "finetune_hmdb51": Published("base", 8, 16, 1, 2.5e-4, 5e-6, 100, 0.7, 0.2, 0.5, 1),
}


def _recipe(name: str, *overrides: str) -> FinetuneRecipe:
    recipe = load_recipe(name, overrides, "finetune")
    assert isinstance(recipe, FinetuneRecipe)
    return recipe


@pytest.mark.parametrize(("name", "row"), PUBLISHED.items())
def test_a_published_run_is_the_published_run(name: str, row: Published) -> None:
    recipe = _recipe(name)
    assert recipe.model.size == row.size and recipe.grid == (8, 14, 14) and recipe.data.clips_per_video == 2
    assert recipe.batch.micro == 2 * row.videos
    assert recipe.batch.accumulation_steps(row.gpus) == row.accumulation
    assert recipe.batch.global_ == 2 * row.videos * row.gpus * row.accumulation
    assert recipe.learning_rate == pytest.approx((row.peak_lr, row.final_lr), rel=1e-12)
    assert (recipe.schedule.epochs, recipe.schedule.warmup_epochs) == (row.epochs, 5)
    assert (recipe.optimizer.layer_decay, recipe.model.drop_path, recipe.dropout) == (
        row.layer_decay,
        row.drop_path,
        row.dropout,
    )
    assert recipe.model.activation_checkpointing == row.checkpointing
    assert (recipe.optimizer.betas, recipe.optimizer.eps, recipe.optimizer.weight_decay) == ((0.9, 0.999), 1e-8, 0.05)
    assert recipe.label_smoothing == 0.1 and recipe.pooling.kind == "mean"


@pytest.mark.parametrize("name", PUBLISHED)
def test_augmentation_is_the_published_one(name: str) -> None:
    recipe = _recipe(name)
    clip = recipe.data.clip
    assert (clip.frames, clip.stride_frames, clip.size_px) == (16, 4, 224)
    assert (clip.crop, clip.crop_area, clip.antialias, clip.interpolation) == ("random_resized", (0.08, 1.0), False, "bilinear")
    # Something-Something: a frame of each segment, and no flip, because left and right are labels.
    assert (clip.sampling, clip.flip) == (("uniform", 0.0) if "ssv2" in name else ("window", 0.5))
    assert dump(recipe.augmentation) == {
        "rand_augment": {"operations": 4, "probability": 0.5, "magnitude": 7.0, "magnitude_std": 0.5},
        "erasing": {"probability": 0.25, "area": [0.02, 1 / 3], "ratio": 0.3},
        "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "probability": 1.0, "cutmix_share": 0.5, "cutmix": "video"},
    }


def test_your_own_folder_needs_no_more_than_its_path() -> None:
    recipe = _recipe("finetune_folder", "data.manifest=mine/train", "validation.manifest=mine/val", "weights=model")
    assert recipe.label is None and recipe.fit and not recipe.states("batch.global") and recipe.states("validation.manifest")
    assert recipe.validation.share == 0.2 and recipe.data.clip.flip == 0.0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["batch.micro=2"], "batch.micro 2 is not divisible by 4 .*augmentation.mix pairs clips of two videos"),
        (["augmentation.mix.cutmix=image"], "augmentation.mix.cutmix 'image'.*'video' or 'published'"),
        (["augmentation.mixup={}"], "augmentation.mixup: unknown setting; did you mean 'mix'"),
        (["keep_head=true", "weights=null"], "keep_head needs weights"),
        (["model.kind=image", "model.tubelet_frames=1", "model.position=sincos2d"], "model.kind must be video"),
        (["data.clip.size_px=220"], "data.clip does not fit model: clip of 220 px is not divisible by patch_px 16"),
        (["teacher.weight=0.5"], "teacher.weights: is required"),
        (["optimizer.layer_decay=1.5"], "optimizer.layer_decay 1.5"),
    ],
)
def test_settings_that_cannot_be_are_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        _recipe("finetune_k400_base", *overrides)
    assert "\n" not in str(caught.value)
