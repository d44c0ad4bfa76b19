"""Processes x ZeRO stage x offload x teachers' placement: the same 20 losses as one plain process, drop path on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hf_networks import CASES, write
from launching import script_ranks
from mvd_ds.config import TrainingRecipe
from mvd_ds.config.base import ENGINE_FOLDER
from mvd_ds.models.teachers import plan_teacher
from mvd_ds.runs.student import plan_predictor
from nightly_record import record
from plain_loop import plain_losses
from shrinking import (
    AVERAGED,
    FROZEN_TEXT,
    LEARNING_TEXT,
    LIBRARIES,
    LIBRARY_STEPS,
    LIVING,
    LOOKING,
    SCALES,
    SHORT,
    STEPS,
    shipped,
)
from text_folders import SPACE, write_text_folder

pytestmark = pytest.mark.launch

SCRIPT = Path(__file__).with_name("layout_matrix.py")
#: What CI sees with one and with four processes, which take long on two cores; the first shards nothing. With two: all.
FEW = ("zero0", "zero1", "zero2", "zero3")
#: Placements of the image and of the video teacher, so that two layouts show all.
PLACEMENTS = [("replicated", "zero3_offload"), ("zero3", "zero3_node")]
#: Masks that follow the attention of a sharded teacher.
SHARDED_LOOKING = [
    *LOOKING,
    *("teachers.image.placement=zero3", "teachers.video.placement=zero3_node", "engine.config=zero3.json"),
]
#: A student of today's blocks, under every stage.
TODAY = [
    *("model.position=rope3d", "model.registers=2", "model.layer_scale=0.1", "model.norm=rmsnorm"),
    *("model.mlp=swiglu", "model.mlp_ratio=2.5", "model.qk_norm=head"),
]
#: Placements of a teacher of transformers and of one of timm.
LIBRARY_PLACEMENTS = [("zero3", "zero3_node"), ("zero3_node", "zero3_offload"), ("zero3_offload", "replicated")]
#: Stage of the student and placement of such a teacher: put together of shards, or copied shard by shard (3 and zero3), beside
#: a student with second shards, which its teachers must not have: what is gathered of them there is never written to.
AVERAGES = [
    ("zero0", "replicated"),
    ("zero1", "zero3"),
    ("zero2", "zero3_node"),
    ("zero3_hpz", "zero3"),
    *(("zero3", p) for p in ("replicated", "zero3")),
]
#: Text towers of a folder by the number of processes: whether they learn, and the engine.
TEXTS = {
    1: [(LEARNING_TEXT, "zero3"), (FROZEN_TEXT, "zero1")],
    2: [(LEARNING_TEXT, "zero1"), (LEARNING_TEXT, "zero3"), (FROZEN_TEXT, "zero2"), (FROZEN_TEXT, "zero3")],
    4: [(LEARNING_TEXT, "zero3"), (FROZEN_TEXT, "zero3")],
}
PERSISTENCE = "stage3_param_persistence_threshold"


def engine_jsons(folder: Path) -> dict[str, str]:
    """Engine configs by name: the shipped ones without NVMe, stage 0, and stages 1 and 2 with an offloaded optimizer."""
    offload = json.loads((ENGINE_FOLDER / "zero3_offload.json").read_text())
    made = {"zero0": {"zero_optimization": {"stage": 0}}}
    for stage in (1, 2):
        values = json.loads((ENGINE_FOLDER / f"zero{stage}.json").read_text())
        values["zero_optimization"]["offload_optimizer"] = offload["zero_optimization"]["offload_optimizer"]
        made[f"zero{stage}_offload"] = {**values, "zero_force_ds_cpu_optimizer": False}
    for name, values in made.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    shipped = {path.stem: path.name for path in ENGINE_FOLDER.glob("zero*.json") if "nvme" not in path.stem}
    return {name: str(folder / f"{name}.json") for name in made} | shipped


def layouts(folder: Path, every: bool, few: bool) -> dict[str, list[str]]:
    """Overrides by layout: engine configs with placements, and values streamed into shards.

    Args:
        every: every engine config with every pair of placements; else ``zero3`` alone has more than one.
        few: of engine configs the ``FEW``.
    """
    found = {}
    for name, path in engine_jsons(folder).items():
        if few and name not in FEW:
            continue
        for image, video in PLACEMENTS if every or name == "zero3" else PLACEMENTS[1:]:
            placed = [f"teachers.image.placement={image}", f"teachers.video.placement={video}"]
            found[f"{name}, {image}, {video}"] = [f"engine.config={path}", *placed]
    for stage in (3,) if few else (1, 2, 3):
        found[f"today, zero{stage}"] = [f"engine.config=zero{stage}.json", *TODAY]
        scaled = [f"engine.config=zero{stage}.json", "teachers.image.placement=zero3", *SCALES]
        found[f"loss_relative, zero{stage}"] = [*scaled, "balance=loss_relative"]
    found["uncertainty"] = [*scaled, "balance=uncertainty"]
    for name, placement in AVERAGES[-1:] if few else AVERAGES:
        config = f"engine.config={engine_jsons(folder)[name]}"
        found[f"{LIVING}, {name}, {placement}"] = [config, *AVERAGED, f"teachers.own.placement={placement}"]
    found["looking"] = SHARDED_LOOKING
    streamed = ["engine.build=streamed", "teachers.image.placement=zero3_node", "teachers.video.placement=zero3"]
    for name in ("zero3",) if few else ("zero3", "zero3_hpz"):
        found[f"streamed, {name}"] = [*streamed, f"engine.config={name}.json"]
    return found


def library_layouts(teachers: list[str]) -> dict[str, list[str]]:
    """Overrides by layout with ``teachers`` of other libraries: every placement, streamed into shards, clip by clip."""
    found = {}
    for hf, timm in LIBRARY_PLACEMENTS:
        found[f"{LIBRARIES}, {hf}, {timm}"] = [*teachers, f"teachers.video.placement={hf}", f"teachers.image.placement={timm}"]
    streamed = ["engine.build=streamed", "teachers.video.placement=zero3", "teachers.image.placement=zero3"]
    chunks = ["teachers.video.placement=replicated", "teachers.image.placement=zero3", "teachers.video.chunk_clips=1"]
    return found | {f"{LIBRARIES}, streamed": [*teachers, *streamed], f"{LIBRARIES}, chunks": [*teachers, *chunks]}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that put a V-JEPA 2 of transformers, and a ViT of timm of another grid, in place of the teachers."""
    folder = tmp_path_factory.mktemp("hf")
    case = CASES["vjepa2"]
    write(case._replace(config=type(case.config)(**case.config.to_dict() | {"hidden_size": 64, "mlp_ratio": 4})), folder)
    hf = {"network": f"hf:{folder}", "weights": folder, "position": "learned", "embed_dim": 64, "depth": 3, "patch_px": 8}
    timm = {"network": "timm:test_vit", "weights": "random", "embed_dim": 64, "depth": 1, "num_heads": 1, "patch_px": 16}
    timm |= {"position": "sincos2d", "resize": "bilinear", "cls_token": "false"}
    teachers = {"video": hf, "image": timm}
    return [f"teachers.{name}.{key}={value}" for name, values in teachers.items() for key, value in values.items()]


@pytest.fixture(scope="module")
def texts(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Overrides of a student whose captions are read by a CLIP that learns on, or by a frozen SigLIP 2."""
    folder, found = tmp_path_factory.mktemp("texts"), {}
    for name, kind in ((LEARNING_TEXT, "clip"), (FROZEN_TEXT, "siglip2")):
        write_text_folder(kind, folder / kind)
        text = f"{{weights: {folder / kind}, frozen: {str(name == FROZEN_TEXT).lower()}}}"
        language = f"language={{sees: all, embed_dim: {SPACE}, weight: 0.5, text: {text}}}"
        found[name] = [f"data.manifest={videos / 'train.jsonl'}", language]
    return found


def text_layouts(texts: dict[str, list[str]], processes: int) -> dict[str, list[str]]:
    """Overrides by layout of ``TEXTS``; a frozen tower under ZeRO-3 is streamed into shards, too."""
    found = {f"{name}, {stage}": [*texts[name], f"engine.config={stage}.json"] for name, stage in TEXTS[processes]}
    if f"{FROZEN_TEXT}, zero3" in found:
        found[f"{FROZEN_TEXT}, zero3"].append("engine.build=streamed")
    return found


@pytest.fixture(scope="module")
def plain_others(
    shrunk: list[str], coded_parts: list[str], libraries: list[str], texts: dict[str, list[str]]
) -> dict[str, list[float]]:
    """Total losses of every step of the plain loop, by the first word of the layouts that are not the recipe itself."""
    others = {
        "every part": coded_parts,
        "looking": SHARDED_LOOKING,
        "today": TODAY,
        LIBRARIES: libraries,
        LIVING: AVERAGED,
        **texts,
    }
    others |= {name: [*SCALES, f"balance={name}"] for name in ("loss_relative", "uncertainty")}
    return {
        name: plain_losses(shipped([*shrunk, *overrides]), steps=LIBRARY_STEPS if name in SHORT else STEPS)["total"]
        for name, overrides in others.items()
    }


@pytest.fixture(scope="module")
def measured() -> dict[int, dict[str, Any]]:
    """Bytes by number of processes, filled by the test below."""
    return {}


@pytest.mark.parametrize(
    ("processes", "every"),
    [(1, False), (2, False), (4, False), *(pytest.param(number, True, marks=pytest.mark.nightly) for number in (1, 2, 4))],
    ids=["1", "2", "4", "1, all of them", "2, all of them", "4, all of them"],
)
def test_every_layout_gives_the_losses_of_a_plain_loop(
    processes: int,
    every: bool,
    plain: dict[str, list[float]],
    plain_others: dict[str, list[float]],
    shrunk: list[str],
    coded_parts: list[str],
    libraries: list[str],
    texts: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: dict[int, dict[str, Any]],
) -> None:
    """Four processes stand for two hosts of two, so that what is sharded within a host is not what is sharded over all."""
    monkeypatch.setenv("TEST_PROCESSES_PER_HOST", str(min(processes, 2)))
    few = not every and processes != 2
    asked = layouts(tmp_path, every, few)
    # Under one process nothing is sharded, under two every stage is, and four show that more change nothing.
    stages = {1: ("zero1",), 2: ("zero1", "zero2", "zero3"), 4: ("zero3",)}[processes]
    asked |= {f"every part, {stage}": [f"engine.config={stage}.json", *coded_parts] for stage in stages}
    asked |= (library_layouts(libraries) if processes < 4 else {}) | text_layouts(texts, processes)
    (tmp_path / "layouts.json").write_text(json.dumps(asked))
    started = time.monotonic()
    said = script_ranks(processes, SCRIPT, str(tmp_path / "layouts.json"), *shrunk, timeout=900)
    seconds = time.monotonic() - started
    found = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    assert found.keys() == asked.keys()
    more = len(stages) + (5 if processes < 4 else 0) + len(TEXTS[processes])
    assert len(found) == more + (2 * 9 + 6 + 4 + 6 if every else 3 + 2 + 2 + 3 + 1 if few else 8 + 2 + 6 + 4 + 6)
    worst = 0.0
    for name, result in found.items():
        total = plain_others.get(name.partition(",")[0], plain["total"])
        assert result["losses"] == pytest.approx(total, rel=1e-4), name
        worst = max(worst, *(abs(loss / expected - 1) for loss, expected in zip(result["losses"], total, strict=True)))
    case = {
        "layouts": len(found),
        "steps": len(plain["total"]),
        "largest_relative_difference": worst,
        "launch_seconds": round(seconds),
    }
    record("scale", f"every layout, {processes} processes" if every else f"layouts of CI, {processes} processes", case)
    measured[processes] = {name: result["bytes"] for name, result in found.items()}


def test_bytes_of_sharded_state_fall_with_the_number_of_processes(
    measured: dict[int, dict[str, Any]], shrunk_recipe: TrainingRecipe
) -> None:
    """fp32: 4 bytes a weight, 4 a master, 8 its moments, 4 a gradient; within 5 % of the formula, padding included."""
    if set(measured) != {1, 2, 4}:
        pytest.skip("measured by the tests above, which were not all selected")
    count = plan_predictor(shrunk_recipe).parameters
    sharded = {"zero1": "masters optimizer", "zero2": "masters optimizer", "zero3": "weights masters optimizer gradients"}
    each = {"weights": 4, "masters": 4, "optimizer": 8, "gradients": 4}
    ratios = {}
    for world, found in measured.items():
        for stage, parts in sharded.items():
            state = found[f"{stage}, zero3, zero3_node"]
            ratios |= {f"{stage}, {part}, {world}": state[part] * world / (each[part] * count) for part in parts.split()}
        over_all, over_host = (found["zero3, zero3, zero3_node"][f"teacher_{name}"] for name in ("image", "video"))
        ratios[f"teacher over all, {world}"] = over_all / teacher_bytes("image", shrunk_recipe, world)
        ratios[f"teacher over a host, {world}"] = over_host / teacher_bytes("video", shrunk_recipe, min(world, 2))
        replicated = found["zero3, replicated, zero3_offload"]["teacher_image"]
        ratios[f"teacher whole, {world}"] = replicated / teacher_bytes("image", shrunk_recipe, 1)
    record("scale", "bytes on a rank over the formula", ratios)
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.05)


def teacher_bytes(name: str, recipe: TrainingRecipe, sharers: int) -> float:
    """fp32 bytes of a teacher on one of ``sharers`` ranks: its share, and whole what is too small to be sharded.

    One rank alone has the whole, once: DeepSpeed gathers nothing there.
    """
    sizes = [parameter.numel() for parameter in plan_teacher(name, recipe.teachers[name], recipe).structure.parameters()]
    threshold = json.loads((ENGINE_FOLDER / "teacher_zero3.json").read_text())["zero_optimization"][PERSISTENCE]
    kept_whole = sum(size for size in sizes if size <= threshold) if sharers > 1 else 0
    return 4 * (sum(sizes) / sharers + kept_whole)
