"""The ``tokenizer`` command: it learns codes of tokens of a teacher, or of clips, under the engine and loop of any training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.config import ClipView, ConfigError
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.mixture import read_mixture
from mvd_ds.models.acceleration.compiled import compile_blocks, wants_compiling
from mvd_ds.models.blueprint import Blueprint
from mvd_ds.models.initialisation import initialise_module
from mvd_ds.models.teachers import plan_teacher
from mvd_ds.models.tokenizers.flops import tokenizer_flops
from mvd_ds.models.tokenizers.folder import save_tokenizer
from mvd_ds.models.tokenizers.kmeans import kmeans
from mvd_ds.models.tokenizers.network import Tokenizer
from mvd_ds.runs.in_cluster import run_in_cluster
from mvd_ds.runs.pictures import plan_pictures, read_clips
from mvd_ds.runs.placing import place_teachers
from mvd_ds.runs.tokenizers.matching import teacher_digest
from mvd_ds.runs.tokenizers.pictures import CodePictures
from mvd_ds.runs.trainer import Trainer, describe_batches, describe_parameters
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import DTYPES
from mvd_ds.training.engine.deepspeed_start import start_student, start_teacher
from mvd_ds.training.optim import group_rows, parameter_groups
from mvd_ds.training.reporting.memory import MemoryMonitor
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.tokenizing import Tokenizing


def learn_tokenizer(recipe: TokenizerRecipe, name: str) -> int:
    """Learn the tokenizer of recipe ``name`` to its end, from its newest checkpoint if there is one.

    Returns:
        Exit code of where it stands: ``run_folder.EXIT_CODES``.

    Raises:
        ConfigError: for whatever the user can mend; on every rank, before or during training.
    """
    return run_in_cluster(recipe, name, lambda folder, cluster: build_learning(recipe, folder, cluster))


def plan_tokenizer(recipe: TokenizerRecipe) -> Blueprint[Tokenizer]:
    """Return the network of a tokenizer with its initial weights, which depend on ``run.seed``, before it takes memory."""

    def fill(name: str, module: nn.Module) -> None:
        initialise_module(name, module, recipe.run.seed)

    return Blueprint(lambda: Tokenizer(recipe), fill)


def build_learning(recipe: TokenizerRecipe, folder: RunFolder, cluster: Cluster) -> Trainer:
    """Look at every file, say what will happen, and start the engine. Collective.

    Raises:
        ConfigError: for whatever the user can mend; on every rank.
    """
    with cluster.together():
        loader = ClipLoader(recipe, recipe.drop_path_blocks, cluster.rank, cluster.world, pin=cluster.device.type == "cuda")
        teachers = {key: plan_teacher(key, settings, recipe) for key, settings in recipe.teachers.items()}
        network = plan_tokenizer(recipe)
        looked_at = plan_pictures(recipe)
        require_enough_tokens(recipe)
        digest = teacher_digest(recipe, recipe.tokenised, folder.digests) if cluster.is_main and recipe.tokenised else None
    groups = parameter_groups(network.structure, recipe.optimizer)
    if cluster.is_main:
        say(describe_batches(recipe, cluster, loader))
        say(describe_codes(recipe))
        say(describe_parameters(recipe, cluster, network.structure, groups))
    rows, memory = group_rows(groups), MemoryMonitor(cluster)
    engine = start_student(network, groups, recipe, cluster)
    if wants_compiling(recipe.engine.compile, cluster.device):
        compile_blocks(engine.module, "tokenizer")

    def some_clips() -> dict[ClipView, Tensor]:
        manifest = read_mixture(recipe.data).manifests[0]
        return read_clips(recipe, manifest, range(min(recipe.run.picture_clips, len(manifest.refs))))[0]

    def objective() -> tuple[Tokenizing, dict[str, Any]]:
        tokenised, perceptual = recipe.tokenised, recipe.tokenizer.perceptual
        read = {} if tokenised is None else {tokenised: teachers[tokenised]}
        placed: dict[str, Any] = dict(place_teachers(recipe, read, cluster, some_clips))
        if perceptual is not None:
            # Gradients pass through it, which no graph that is replayed has.
            placed[perceptual] = start_teacher(teachers[perceptual], "replicated", recipe, cluster, perceptual)
        return make_objective(recipe, engine, placed, cluster.device), placed

    def export(weights: dict[str, Tensor], average: dict[str, Tensor] | None, step: int, statistics: dict[str, Tensor]) -> None:
        # Codes belong to the weights that they followed, and not to an average of these.
        save_tokenizer(folder.model, weights, statistics, recipe, digest, step)

    last_step = recipe.schedule.last_step(loader.steps_per_epoch)
    pictures = None if looked_at is None else CodePictures(recipe, folder, cluster, looked_at, last_step)
    flops = tokenizer_flops(recipe).training
    ema = Ema(engine, None)
    return Trainer(recipe, folder, cluster, loader, engine, ema, objective, flops, export, memory, None, pictures, rows)


def make_objective(recipe: TokenizerRecipe, network: Any, teachers: Mapping[str, Any], device: torch.device) -> Tokenizing:
    """Return the objective of a tokenizer.

    Args:
        network: a ``Tokenizer``, or the engine around one.
        teachers: the placed teachers by name.
    """
    settings, dtype = recipe.tokenizer, DTYPES[recipe.engine.precision]
    tokenised = None if recipe.tokenised is None else teachers[recipe.tokenised]
    perceptual = None if settings.perceptual is None else teachers[settings.perceptual]

    def start(tokens: Tensor) -> Tensor:
        return kmeans(tokens, settings.codes, settings.start_iterations, settings.method == "vq", recipe.run.seed)

    return Tokenizing(recipe, network, tokenised, perceptual, start, dtype, device)


def describe_codes(recipe: TokenizerRecipe) -> str:
    """Return in a sentence which codes are learned of what."""
    teacher, settings = recipe.teacher, recipe.tokenizer
    how = f"k-means of {recipe.code_width} channels" if settings.method == "kmeans" else f"vectors of {settings.width} channels"
    network = f"{teacher.kind} {teacher.embed_dim} x {teacher.depth}"
    read = f"teacher {recipe.tokenised} ({network}, blocks {list(teacher.target.blocks)}, from {teacher.weights})"
    seen = f"{recipe.data.clip.frames} x {recipe.data.clip.size_px} px by an encoder of its own ({network})"
    return (
        f"{settings.codes:,} codes, {how}, of {seen if recipe.sees_pixels else read}, which reconstruct {_reconstructed(recipe)}"
    )


def _reconstructed(recipe: TokenizerRecipe) -> str:
    """Return in words what the codes reconstruct, and which teacher looks at it."""
    if recipe.pixels is None:
        return f"the tokens of teacher {recipe.tokenised}" if recipe.sees_pixels else "features"
    name = recipe.tokenizer.perceptual
    if name is None:
        return "pixels"
    teacher = recipe.teachers[name]
    return f"pixels, for {name} too ({teacher.weights}, blocks {list(teacher.target.blocks)}, weight {teacher.weight:g})"


def require_enough_tokens(recipe: TokenizerRecipe) -> None:
    """Refuse a calibration with fewer tokens than codes, before anything is read.

    Raises:
        ConfigError: with the number that it takes.
    """
    slots, rows, columns = recipe.grid
    tokens = recipe.calibration_clips * slots * rows * columns
    if tokens < recipe.tokenizer.codes:
        least = -(-recipe.tokenizer.codes // (slots * rows * columns))
        raise ConfigError(
            f"tokenizer.codes {recipe.tokenizer.codes}: the {recipe.calibration_clips} calibration clips have {tokens} tokens to "
            f"begin with; set calibration_clips to {least} or more"
        )
    if recipe.optimizer.ema_decay is not None:
        raise ConfigError("optimizer.ema_decay: codes follow the weights, not an average of these: remove it")
