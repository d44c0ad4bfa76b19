"""Small runs of prompts: a student with a text tower, and the overrides of a fine-tuning on the sample set."""

from __future__ import annotations

from pathlib import Path

from mvd_ds.config import FinetuneRecipe, TrainingRecipe, load_recipe
from mvd_ds.models.weights import save_model
from mvd_ds.runs.student import build_predictor

CLIP = ("data.clip.frames=4", "data.clip.size_px=32", "data.clip.stride_frames=2")
SMALL = [
    *(*CLIP, "model.size=null", "model.embed_dim=32", "model.depth=2", "model.num_heads=2", "model.patch_px=8"),
    *("language.embed_dim=16", "language.text.context=64", "batch.micro=4", "batch.global=4", "engine.precision=fp32"),
]
RECIPE = "finetune_prompts"
STEPS = 4


def write_captioned(folder: Path) -> Path:
    """Write the model of a run that has not learnt much, with a shared text tower, and return its folder."""
    recipe = load_recipe("msclip_base", SMALL)
    assert isinstance(recipe, TrainingRecipe)
    save_model(folder, build_predictor(recipe).state_dict(), recipe, {"step": 0})
    return folder


def settings(kind: str, videos: Path, captioned: Path, output: Path, *more: str) -> list[str]:
    """Overrides of a fine-tuning of four steps; later ones count."""
    words = [] if kind == "vpt" else [f"prompt.words.how={videos / 'words_how.json'}"]
    return [
        f"adaptation={kind}",
        *(*words, *CLIP, "data.workers=0", "label=how", f"weights={captioned}"),
        f"data.manifest={videos / 'train.txt'}",
        f"validation={{manifest: {videos / 'val.txt'}, batch: 5}}",
        *("batch.micro=4", "batch.global=8", "optimizer.base_lr=1", "schedule={steps: 4, warmup_steps: 1}"),
        *("engine.precision=fp32", "run.device=cpu", "run.log_every_steps=1", "run.save_every_steps=2", f"run.output={output}"),
        *more,
    ]


def loaded(kind: str, *given: Path, more: tuple[str, ...] = ()) -> FinetuneRecipe:
    """Return the recipe of ``settings``."""
    found = load_recipe(RECIPE, settings(kind, *given, *more), "finetune")
    assert isinstance(found, FinetuneRecipe)
    return found
