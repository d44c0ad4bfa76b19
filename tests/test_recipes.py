"""The shipped recipes: they load, say what they are on one screen, and hold the published numbers."""

import functools
import re
from typing import Any, NamedTuple

import pytest

from mvd_ds.config import (
    FinetuneRecipe,
    Recipe,
    TargetSettings,
    TrainingRecipe,
    dump,
    find_engine_config,
    find_recipe,
    load_recipe,
    recipe_names,
)
from mvd_ds.config.probing import ProbeRecipe
from recipe_pages import header_of
from test_finetune_recipes import PUBLISHED as FINETUNED

COMMANDS = {"distillation": "distill", "image_reconstruction": "pretrain", "video_reconstruction": "pretrain"}
COMMANDS |= {"classification": "finetune"} | {name: name for name in ("probe", "evaluate", "features", "tokenizer")}
COMMANDS["language"] = "pretrain"
HEADER = ("What", "Source", "Command", "Cost", "Result")


class Published(NamedTuple):
    """One row of the table of published distillation runs, all on 32 GPUs."""

    student: str
    teacher: str
    micro: int
    accumulation: int
    peak_lr: float
    final_lr: float
    drop_path: float
    cosine_epochs: int
    stop_epochs: int
    decoder: tuple[int, int, int]
    """Width, depth, heads."""
    kinetics: float
    ssv2: float


#: Source: MVD's published pretraining scripts (ruiwang2021/mvd) and its table of results.
PUBLISHED = {
    "mvd_small_from_base": Published("small", "base", 16, 2, 6e-4, 4e-4, 0.1, 401, 400, (384, 2, 6), 80.6, 70.7),
    "mvd_small_from_large": Published("small", "large", 16, 2, 6e-4, 4e-4, 0.1, 401, 400, (384, 2, 6), 81.0, 70.9),
    "mvd_base_from_base": Published("base", "base", 16, 2, 6e-4, 4e-4, 0.1, 401, 400, (768, 2, 12), 82.7, 72.5),
    "mvd_base_from_large": Published("base", "large", 8, 4, 6e-4, 4e-4, 0.1, 401, 400, (768, 2, 12), 83.4, 73.7),
    "mvd_large_from_large_400ep": Published("large", "large", 8, 2, 3e-4, 2e-4, 0.1, 401, 400, (512, 4, 8), 86.0, 76.1),
    "mvd_large_from_large": Published("large", "large", 8, 2, 3e-4, 2e-5, 0.1, 801, 800, (512, 4, 8), 86.4, 76.7),
    "mvd_huge_from_huge": Published("huge", "huge", 8, 2, 3e-4, 2e-5, 0.2, 801, 800, (640, 8, 8), 87.3, 77.3),
}
WIDTHS = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}
#: (global batch, GPUs, (decoder width, depth, heads), published top-1). Source: VideoMAE's and MAE's published scripts.
STAGE_ONE = {
    "videomae_small": (1024, 32, (192, 4, 3), 79.0),
    "videomae_base": (2048, 64, (384, 4, 6), 81.5),
    "videomae_large": (512, 64, (512, 12, 8), 85.2),
    "videomae_huge": (1024, 64, (640, 12, 8), 86.6),
    "mae_base": (4096, 64, (512, 8, 16), 83.6),
    "mae_large": (4096, 64, (512, 8, 16), 85.9),
    "mae_huge": (4096, 64, (512, 8, 16), 86.9),
}
QUICKSTART = {"quickstart_image", "quickstart_video", "quickstart_distill", "quickstart_finetune", "quickstart_probe"}
STUDENTS = ("demo_student_image", "demo_student_video", "demo_student_both")
DEMO = {"demo_image_teacher", "demo_video_teacher", *STUDENTS, "demo_videomae", "demo_probe"}
SMALL = QUICKSTART | DEMO

#: Recipes that nobody has published, by what they change in ``mvd_base_from_base``.
OURS = {"mvd_base_attmask": "masking", "mvd_base_cross": "decoder", "mvd_base_cached": "targets"}

#: Recipes of published methods for other networks or data than the published ones.
ADAPTED = {
    "tinymim_small_from_large",
    "umt_base",
    *("vqkd_base", "peco_base", "beitv2_base"),
    "vjepa_base",
    "ibot_small",
    "clip_base",
    "msclip_base",
    "aclip_base",
}
#: A recipe that nobody has published, of teachers that somebody else has trained.
AGGLOMERATIVE = "agglomerative_base"

#: Recipes of whatever the user brings: so are their results.
USES = {
    *("evaluate_5x3", "evaluate_2x3", "features", "finetune_folder", "finetune_prompts"),
    *("probe_attentive", "probe_dense", "probe_cocoop", "probe_metaprompt"),
}


def _text(name: str) -> str:
    return find_recipe(name).read_text()


def _training(name: str, overrides: tuple[str, ...] = ()) -> TrainingRecipe:
    recipe = load_recipe(name, overrides)
    assert isinstance(recipe, TrainingRecipe)
    return recipe


@functools.cache
def _made() -> dict[str, Recipe]:
    """Every shipped recipe under the folder of the model it writes."""
    recipes = {name: load_recipe(name) for name in recipe_names()}
    return {f"{recipe.run.output.replace('{recipe}', name)}/model": recipe for name, recipe in recipes.items()}


def _shape(decoder_or_model: Any) -> tuple[int, int, int]:
    return decoder_or_model.embed_dim, decoder_or_model.depth, decoder_or_model.num_heads


def test_the_shelf_is_complete() -> None:
    others = {*OURS, *ADAPTED, AGGLOMERATIVE, "mvd_students_from_large", "mvd_large_from_base", "kmeans_base"}
    assert set(recipe_names()) == {*PUBLISHED, *STAGE_ONE, *SMALL, *USES, *FINETUNED, *others}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_a_document_on_one_screen(name: str) -> None:
    lines = _text(name).splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 130
    header = header_of(name)
    assert tuple(header) == HEADER and all(header.values())
    recipe = load_recipe(name)
    assert f" mvd_ds {COMMANDS[recipe.objective]} {name}" in header["Command"]
    if name in USES:
        return
    assert header["Result"].startswith("see tests/README.md" if name in SMALL else "not run here; published: ")
    assert name in SMALL or re.search(r"[\d,]+ A100 GPU-hours .* \d+ H100 GPU-hours .* arithmetic only", header["Cost"])


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_loads_for_its_command_and_names_engine_configs_that_exist(name: str) -> None:
    recipe = load_recipe(name, command=COMMANDS[load_recipe(name).objective])
    if isinstance(recipe, TrainingRecipe):
        assert find_engine_config(recipe.engine.config) and find_engine_config(recipe.engine.teacher_config)


@pytest.mark.parametrize(("name", "row"), PUBLISHED.items())
def test_a_published_run_is_the_published_run(name: str, row: Published) -> None:
    recipe = _training(name)
    assert _shape(recipe.model) == WIDTHS[row.student] and recipe.model.mlp_ratio == 4
    assert _shape(recipe.decoder) == row.decoder and recipe.decoder.drop_path is None and recipe.decoder.projection_bias
    assert (recipe.batch.micro, recipe.batch.accumulation_steps(32)) == (row.micro, row.accumulation)
    assert recipe.batch.global_ == row.micro * row.accumulation * 32
    assert recipe.learning_rate == pytest.approx((row.peak_lr, row.final_lr), rel=1e-12)
    assert (recipe.schedule.epochs, recipe.schedule.stop_after_epochs) == (row.cosine_epochs, row.stop_epochs)
    assert recipe.model.drop_path == row.drop_path
    assert f"published: {row.kinetics} Kinetics-400, {row.ssv2} SSv2" in header_of(name)["Result"]
    image, video = recipe.teachers["image"], recipe.teachers["video"]
    assert _shape(image) == _shape(video) == WIDTHS[row.teacher]
    assert (image.patch_px, image.input_px) == ((14, 196) if row.teacher == "huge" else (16, None))
    _check_common(recipe)


def _check_common(recipe: TrainingRecipe) -> None:
    """What all published distillation runs share."""
    clip, model, optimizer = recipe.data.clip, recipe.model, recipe.optimizer
    assert (clip.frames, clip.stride_frames, clip.size_px, clip.sampling) == (16, 4, 224, "dense")
    assert (clip.crop, clip.flip, recipe.data.clips_per_video, recipe.data.workers) == ("multiscale", 0.0, 1, 10)
    assert (recipe.masking.kind, recipe.masking.ratio, recipe.masking.masks_per_clip) == ("tube", 0.9, 1)
    assert (recipe.grid, recipe.masked_tokens) == ((8, 14, 14), 1408)
    assert (model.patch_px, model.tubelet_frames, model.position, model.qkv_bias) == (16, 2, "sincos3d", "query_value")
    assert not model.cls_token and model.kind == "video"
    assert (optimizer.base_lr, optimizer.betas, optimizer.eps, optimizer.weight_decay) == (1.5e-4, (0.9, 0.95), 1e-8, 0.05)
    assert (optimizer.gradient_clipping, optimizer.lr_counts) == (0.0, "clips")
    assert (recipe.schedule.warmup_epochs, recipe.run.seed) == (40, 0)
    # ten epochs of the 240,436 videos of Kinetics-400
    assert recipe.run.save_every_steps == 10 * (240_436 // recipe.batch.global_)
    assert list(recipe.teachers) == ["image", "video"]
    image, video = recipe.teachers["image"], recipe.teachers["video"]
    shared = ("kind", "tubelet_frames", "position", "qkv_bias", "cls_token")
    assert [getattr(image, key) for key in shared] == ["image", 1, "sincos2d", "full", True]
    assert [getattr(video, key) for key in shared] == ["video", 2, "sinusoid1d", "query_value", False]
    assert (video.patch_px, video.input_px) == (16, None)
    for teacher in (image, video):
        assert (teacher.loss, teacher.weight, teacher.frame_in_tubelet) == ("smooth_l1", 1.0, 0)
        assert teacher.target == TargetSettings(blocks=(-1,), norm="none", normalise=False) and not teacher.more_targets
        assert recipe.teacher_grid(teacher) == recipe.grid


def test_the_large_student_of_base_teachers_changes_the_teachers_only() -> None:
    ours, published = _training("mvd_large_from_base"), _training("mvd_large_from_large_400ep")
    a, b = dump(ours), dump(published)
    assert _shape(ours.teachers["image"]) == _shape(ours.teachers["video"]) == WIDTHS["base"]
    a.pop("teachers")
    b.pop("teachers")
    assert a == b


@pytest.mark.parametrize(("name", "row"), STAGE_ONE.items())
def test_a_stage_one_run_is_the_published_run(name: str, row: tuple[int, int, tuple[int, int, int], float]) -> None:
    recipe, (batch, gpus, decoder, result) = _training(name), row
    image = name.startswith("mae")
    assert recipe.pixels is not None and recipe.objective == f"{'image' if image else 'video'}_reconstruction"
    assert _shape(recipe.model) == WIDTHS[name.split("_")[1]] and _shape(recipe.decoder) == decoder
    assert recipe.decoder.projection_bias is image and recipe.model.drop_path == 0
    assert (recipe.batch.global_, recipe.batch.accumulation_steps(gpus)) == (batch, 1)
    assert recipe.learning_rate == pytest.approx((1.5e-4 * batch / 256, 0.0 if image else 1e-5 * batch / 256), rel=1e-12)
    assert (recipe.optimizer.betas, recipe.optimizer.weight_decay, recipe.optimizer.gradient_clipping) == ((0.9, 0.95), 0.05, 0.0)
    schedule = recipe.schedule
    assert (schedule.epochs, schedule.stop_after_epochs) == ((1600, None) if image else (1601, 1600))
    assert schedule.warmup_epochs == 40 and str(result) in header_of(name)["Result"]
    assert recipe.pixels.normalise == ("joint" if image else "per_channel")
    assert (recipe.pixels.variance_floor, recipe.pixels.loss) == (0.0, "l2")
    clip, masking = recipe.data.clip, recipe.masking
    if image:
        assert (clip.frames, clip.size_px, clip.crop, clip.flip) == (1, 224, "random_resized", 0.5)
        assert (masking.kind, masking.ratio) == ("random", 0.75)
        assert recipe.masked_tokens == (192 if name == "mae_huge" else 147)
    else:
        assert (clip.frames, clip.stride_frames, clip.size_px, clip.crop, clip.flip) == (16, 4, 224, "multiscale", 0.0)
        assert (masking.kind, masking.ratio, recipe.masked_tokens) == ("tube", 0.9, 1408)


@pytest.mark.parametrize("name", recipe_names())
def test_the_chain_of_recipes_holds_together(name: str) -> None:
    """Every folder of weights that a recipe reads is what another recipe writes, and the two networks are the same."""
    recipe, made = load_recipe(name), _made()
    if isinstance(recipe, ProbeRecipe):
        assert {model.weights for model in recipe.models.values()} <= set(made)
        sources = [made[model.weights] for model in recipe.models.values()]
        sizes = {(source.data.clip.frames, source.data.clip.size_px) for source in sources}
        assert name not in USES or sizes == {(recipe.data.clip.frames, recipe.data.clip.size_px)}
        assert name in USES or recipe.data.clip == load_recipe("quickstart_distill").data.clip
    if isinstance(recipe, FinetuneRecipe):
        start = made[str(recipe.weights)]
        assert isinstance(start, TrainingRecipe)
        keys = {key for key in _fixed(start) if not recipe.fit or recipe.states(f"model.{key}")}  # fitted to the weights
        assert {key: dump(recipe.model)[key] for key in keys} == {key: dump(start.model)[key] for key in keys}
    for teacher in recipe.teachers.values() if isinstance(recipe, TrainingRecipe) else ():
        if teacher.network is not None or teacher.is_ema:  # whose weights are made elsewhere, or by the run itself
            continue
        source = made[teacher.weights]
        assert isinstance(source, TrainingRecipe)
        assert {key: dump(teacher)[key] for key in _fixed(source)} == {key: dump(source.model)[key] for key in _fixed(source)}


def _fixed(recipe: TrainingRecipe) -> set[str]:
    """Settings of a network that its weights fix."""
    return set(dump(recipe.model)) - {"drop_path", "attention", "activation_checkpointing"}


@pytest.mark.parametrize("name", [n for n in recipe_names() if re.search("mvd_(large|huge)|quickstart_distill", n)])
def test_large_models_ship_in_the_owners_shape(name: str) -> None:
    recipe = _training(name)
    assert (recipe.engine.config, recipe.engine.teacher_config) == ("zero3.json", "teacher_zero3.json")
    assert recipe.model.activation_checkpointing == 1
    assert {teacher.placement for teacher in recipe.teachers.values()} == {"zero3"}


@pytest.mark.parametrize("name", ["mvd_small_from_base", "mvd_small_from_large", "mvd_base_from_base", "mvd_base_from_large"])
def test_small_models_replicate_their_teachers(name: str) -> None:
    recipe = _training(name)
    assert recipe.engine.config == "zero2.json" and recipe.model.activation_checkpointing == 0
    assert {teacher.placement for teacher in recipe.teachers.values()} == {"replicated"}


def test_the_sample_set_is_taken_in_whole_clips_unflipped() -> None:
    """A crop in time or space or a flip would change the label of a motion."""
    for name in sorted(SMALL):
        recipe = load_recipe(name)
        clip = recipe.data.clip
        of_images = name in ("quickstart_image", "demo_image_teacher")
        assert (clip.frames, clip.stride_frames, clip.size_px) == (1 if of_images else 12, 1, 48)
        manifest = f"runs/{name.split('_')[0]}/videos/train.txt"
        assert (clip.crop, clip.flip, recipe.data.manifest) == ("center", 0.0, manifest)
    probe = load_recipe("quickstart_probe")
    assert isinstance(probe, ProbeRecipe) and probe.pixels and probe.models["untrained"].untrained
    assert probe.models["untrained"].weights == probe.models["student"].weights


def test_the_students_of_the_demo_differ_in_their_teachers_alone() -> None:
    alone = {name: dump(_training(name)) for name in STUDENTS}
    both = alone["demo_student_both"]["teachers"]
    for name, values in alone.items():
        assert values.pop("teachers").items() <= both.items()
        assert values.pop("run")["output"] == f"runs/demo/seed-0/{name.removeprefix('demo_')}"
    assert alone["demo_student_image"] == alone["demo_student_video"] == alone["demo_student_both"]


def test_the_rival_of_the_demo_sees_as_much_as_teacher_and_student_together() -> None:
    rival, teacher, student = (_training(f"demo_{name}") for name in ("videomae", "video_teacher", "student_both"))

    def samples(recipe: TrainingRecipe) -> int:
        return (recipe.schedule.steps or 0) * recipe.batch.global_ * recipe.masks_per_clip

    assert samples(rival) == samples(teacher) + samples(student)
    for recipe in (rival, teacher):
        assert _shape(recipe.model) == _shape(student.model)
    a, b = dump(rival), dump(teacher)
    assert (a.pop("run")["output"], a.pop("schedule")["steps"]) == ("runs/demo/seed-0/videomae", 1300)
    b.pop("run"), b.pop("schedule")
    assert a == b
