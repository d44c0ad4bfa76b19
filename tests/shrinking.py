"""A shipped recipe made small by overrides: sizes, paths and length only; mask, loss, optimizer, drop path and ZeRO stay."""

from __future__ import annotations

from pathlib import Path

from mvd_ds.config import TrainingRecipe, load_recipe
from mvd_ds.models.weights import save_model
from mvd_ds.runs.student import build_predictor

RECIPE = "mvd_large_from_large_400ep"
STEPS = 20
#: Layouts with this in their name have teachers of other libraries, and fewer steps.
LIBRARIES, LIBRARY_STEPS = "libraries", 5
#: Layouts with a teacher that is the student's average have fewer steps, too.
LIVING = "living"
#: And layouts whose captions are read by the text tower of a folder, which learns or is frozen.
LEARNING_TEXT, FROZEN_TEXT = "learning text", "frozen text"
SHORT = (LIBRARIES, LIVING, LEARNING_TEXT, FROZEN_TEXT)
#: Every kind of state that targets have: of standardisers, of a balance, and learned; with dropping, whose draws are keyed.
SCALES = [
    "teachers.image.target.standardise=phi_s",
    "teachers.video.target.standardise=running",
    "teachers.video.loss={cosine: 0.9, smooth_l1: 0.1}",
    "teachers.video.weight=0.5",
    "drop_teachers=0.5",
]
#: Masks that follow a teacher's attention, and decoders of cross-attention that read every level of the encoder.
LOOKING = [
    *("masking.kind=attention", "masking.teacher=image", "masking.blocks=[1, -1]", "masking.pick=hint"),
    *("masking.hint_from=0.5", "masking.hint_share=0.25", "decoder.attention=cross", "decoder.levels=blocks_and_embedding"),
]
#: A teacher that is the student's average, beside the frozen ones, with features and with prototypes and all that these have:
#: two clips of a video, local crops, temperatures that warm up, prototypes that do not learn at first. Masks are not drawn from
#: its attention: that of a network in its first steps is near to uniform, and rounding decides who is in the hint.
_HEAD = (
    "{outputs: 24, hidden: 32, bottleneck: 8, warmup_steps: 3, frozen_steps: 2, local_crops: 2, local_px: 16, "
    "local_area: [0.1, 0.4]}"
)
AVERAGED = [
    "teachers.own={weights: ema, target: {norm: final, normalise: true}, "
    f"more_targets: {{assigned: {{kind: prototypes, norm: final, weight: 0.1, prototypes: {_HEAD}}}}}}}",
    *("model.cls_token=true", "data.clips_per_video=2", "optimizer.ema_decay=0.7", "optimizer.ema_decay_end=1"),
]


def shipped(overrides: list[str]) -> TrainingRecipe:
    """The shipped recipe with ``overrides``."""
    recipe = load_recipe(RECIPE, overrides, "distill")
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def shrink(videos: Path, teachers: Path) -> list[str]:
    """Overrides of sizes, paths and length."""
    network = ["size=null", "embed_dim=64", "depth=3", "num_heads=2", "patch_px=8"]
    return [
        f"data.manifest={videos / 'train.txt'}",
        "data.workers=0",
        "data.clip.frames=8",
        "data.clip.stride_frames=1",
        "data.clip.size_px=32",
        *(f"model.{item}" for item in network),
        *(f"teachers.{name}.{item}" for name in ("image", "video") for item in network),
        *(f"teachers.{name}.weights={teachers / name}" for name in ("image", "video")),
        "decoder.embed_dim=32",
        "decoder.depth=2",
        "decoder.num_heads=2",
        "batch.micro=2",
        "batch.global=8",
        # The published rate is per 256 clips: raised by as much as the batch is smaller, so that 20 steps do something.
        "optimizer.base_lr=0.064",
        "optimizer.min_base_lr=0.0064",
        "schedule.epochs=null",
        "schedule.stop_after_epochs=null",
        "schedule.warmup_epochs=null",
        f"schedule.steps={STEPS}",
        "schedule.warmup_steps=3",
        "calibration_clips=20",
        "engine.precision=fp32",
        "run.log_every_steps=1",
        "run.features_every_steps=5",
        "run.pictures_every_steps=0",
    ]


def write_teachers(overrides: list[str], folder: Path) -> None:
    """Stage-one models of the shrunk geometry with the weights of their seeds, in the folders that ``overrides`` name."""
    for name, seed in (("image", 11), ("video", 12)):
        recipe = _stage_one(shipped(overrides), name, seed)
        save_model(folder / name, build_predictor(recipe).state_dict(), recipe, {})


def _stage_one(recipe: TrainingRecipe, name: str, seed: int) -> TrainingRecipe:
    """A stage-one recipe whose encoder is teacher ``name``."""
    teacher = recipe.teachers[name]
    overrides = [f"model.{key}={getattr(teacher, key)}" for key in ("embed_dim", "depth", "num_heads", "patch_px")]
    base = {"image": "mae_large", "video": "videomae_large"}[name]
    clip = [
        f"data.clip.frames={1 if name == 'image' else recipe.data.clip.frames}",
        f"data.clip.size_px={recipe.data.clip.size_px}",
    ]
    decoder = ["decoder.embed_dim=32", "decoder.num_heads=2", "decoder.depth=1"]
    made = load_recipe(base, [*overrides, *clip, *decoder, "model.size=null", f"run.seed={seed}"])
    assert isinstance(made, TrainingRecipe)
    return made
