"""The step and its yardsticks compute the same, and where they do not, nobody is told a ratio."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from launching import ranks
from mvd_ds.cli import main
from mvd_ds.config import ConfigError
from mvd_ds.objectives.losses import LOSSES
from mvd_ds.runs.student import recipe_flops
from mvd_ds.tools.bench import reference_step, step_variants
from mvd_ds.tools.bench.clock import Clock, PeakMemory
from mvd_ds.tools.bench.step import StepBenchOptions, measure_step
from mvd_ds.tools.bench.step_variants import SELF, build_variants, has_fp8, step_recipe, with_mask_count, with_self_attention
from mvd_ds.training.cluster import Cluster

CPU = torch.device("cpu")
_NETWORK = ("size=null", "embed_dim=32", "depth=2", "num_heads=2")
TINY = [
    *(f"{part}.{item}" for part in ("model", "teachers.image", "teachers.video") for item in _NETWORK),
    *("decoder.embed_dim=16", "decoder.num_heads=2", "decoder.depth=1"),
    *("data.clip.frames=4", "data.clip.size_px=64", "batch.micro=2"),
]
RECIPE = "mvd_base_from_base"


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["masking.masks_per_clip=3"],
        ["masking.kind=random"],
        ["teachers.video.target.blocks=[0]"],
        ["teachers.image.target.blocks=[0,1]", "teachers.image.target.norm=final", "teachers.video.target.normalise=true"],
        ["teachers.image.loss=cosine", "teachers.video.weight=0.3"],
        ["teachers.image.input_px=32", "teachers.image.resize=bilinear", "teachers.image.frame_in_tubelet=1"],
        ["model.activation_checkpointing=1", "teachers.video.chunk_clips=1"],
        ["engine.precision=bf16"],
        ["teachers.video.target.kind=relations", "teachers.image.more_targets.relations.kind=relations"],
    ],
    ids=lambda settings: ",".join(settings) or "published",
)
def test_all_variants_compute_the_same(settings: list[str]) -> None:
    result = measure_step(RECIPE, TINY + settings, StepBenchOptions(device="cpu"))
    gate = result["gate"]
    assert gate["equal"], gate
    assert len(set(gate["losses"])) >= 4 and all(0 < value < math.inf for value in gate["gradient_norms"].values())
    assert result["times"].keys() == {"P0", "P1", "P2"}


@pytest.mark.parametrize("name", ["clip_base", "aclip_base"])
def test_a_step_with_captions_is_measured_by_itself(name: str) -> None:
    """Its operations count the text tower; the loss is that of captions, and of the teacher where there is one."""
    views = [] if name == "clip_base" else ["decoder.hidden=16", "masking.view_area=[0.5, 1.0]"]
    text = ["language.text={context: 20, embed_dim: 16, depth: 1, num_heads: 2}", "model.patch_px=8"]
    tiny = [setting for setting in TINY if not setting.startswith(("teachers", "decoder"))]
    result = measure_step(name, [*tiny, *text, *views], StepBenchOptions(device="cpu", against=()))
    assert result["gate"]["equal"] and all(math.isfinite(loss) and loss > 0.5 for loss in result["gate"]["losses"].values())
    assert 0 < result["gflops_per_clip"]["texts"] < result["gflops_per_clip"]["step"]
    assert result["variants"]["ours"]["step_ms"] > 0
    with pytest.raises(ConfigError, match="--against none"):
        measure_step(name, [*tiny, *text, *views], StepBenchOptions(device="cpu"))


def test_a_recipe_that_reads_its_targets_is_refused() -> None:
    """Its teachers would be asked, and their operations not counted."""
    with pytest.raises(ConfigError, match=r"add targets\.cache=null to ask teachers"):
        step_recipe("mvd_base_cached", [], "cpu", CPU)
    assert step_recipe("mvd_base_cached", ["targets.cache=null"], "cpu", CPU).asked_teachers


def test_whatever_is_learnt_is_measured_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Visible tokens, a summary and labels have no yardstick; their heads are among the operations that are counted."""
    more = ["teachers.video.target.tokens=all", "teachers.image.more_targets={summary: {kind: summary}}"]
    settings = [*TINY, *more, "labels={classes: 7, hidden: 16}", "masking.masks_per_clip=2"]
    assert main(["bench", "step", RECIPE, *settings, "--device", "cpu"]) == 2
    assert "image_summary: there is no yardstick for it, only for features and relations" in capsys.readouterr().err
    result = measure_step(RECIPE, settings, StepBenchOptions(device="cpu", against=()))
    assert result["variants"].keys() == {"ours", "ours, 2 masks"} and not result["times"]
    operations = recipe_flops(step_recipe(RECIPE, settings, "recipe", CPU)).decoders
    assert operations["labels"] == 2 * 2 * 16 * (32 + 7) and operations["image_summary"] == 2 * 2 * 32 * 32


def test_masks_and_decoders_that_look_are_measured_beside_self_attention() -> None:
    looks = ["masking.kind=attention", "masking.teacher=image", "masking.pick=multinomial", "masking.masks_per_clip=2"]
    cross = ["decoder.attention=cross", "decoder.levels=blocks_and_embedding"]
    result = measure_step(RECIPE, [*TINY, *looks, *cross], StepBenchOptions(device="cpu"))
    assert result["gate"]["equal"] and SELF in result["variants"] and result["decoders"]["times"] > 0
    measured = step_recipe(RECIPE, [*TINY, *looks, *cross], "recipe", CPU)
    other = with_self_attention(measured)
    assert other is not None and with_self_attention(other) is None
    flops = [recipe_flops(with_mask_count(each, 1)).training for each in (other, measured)]
    assert result["decoders"]["by_count_of_operations"] == flops[0] / flops[1]


def test_a_difference_is_told_and_no_ratio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(reference_step, "mixed_loss", lambda name, a, b: LOSSES["l2"](a, b))
    assert main(["bench", "step", RECIPE, *TINY, "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "No ratio: first losses or gradient norms differ by" in said and " x " not in said


def test_a_loss_that_is_not_finite_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_step, "mixed_loss", lambda name, a, b: (a - b).sum() * math.nan)
    result = measure_step(RECIPE, TINY, StepBenchOptions(device="cpu"))
    assert not result["gate"]["equal"] and "times" not in result and "masks" not in result


def test_everything_is_said_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, traces = tmp_path / "step.json", tmp_path / "traces"
    options = ["--device", "cpu", "--steps", "2", "--rounds", "2", "--output", str(output), "--profile", str(traces)]
    assert main(["bench", "step", RECIPE, *TINY, "masking.masks_per_clip=2", *options]) == 0
    said, result = capsys.readouterr().out, json.loads(output.read_text())
    assert "cpu" in result["label"] and "one thread" in result["label"] and "Matrix rate measured in this run" in said
    assert result["versions"]["torch"] and result["machine"]["cores"] and result["matrix_tflops"] > 0
    assert result["datasheet_tflops"] is None and result["geometry"]["masks_per_clip"] == 2
    assert list(result["variants"]) == ["P0", "P1", "P2", "ours", "ours, 2 masks"]
    gflops = result["gflops_per_clip"]["step"]
    for name, row in result["variants"].items():
        masks = 2 if "2 masks" in name else 1
        assert row["steps"] == 2 * 2 * 2, "two rounds of two turns of two steps"
        assert row["student_samples_per_second"] == pytest.approx(masks * row["clips_per_second"])
        assert row["clips_per_second"] == pytest.approx(2 / (row["step_ms"] / 1e3))
        assert row["mfu_of_matrix_rate"] == pytest.approx(row["tflops"] / result["matrix_tflops"])
        assert {"teacher image", "teacher video", "student", "backward", "optimizer"} < row["parts_ms"].keys()
        assert row["tflops"] <= gflops * row["clips_per_second"] / 1e3 * 1.0001
    rows, masks = result["variants"], result["masks"]
    assert result["times"]["P1"] == pytest.approx(rows["P1"]["step_ms"] / rows["ours"]["step_ms"])
    assert masks["share"] == pytest.approx(masks["samples_times_one_mask"] / masks["by_count_of_operations"])
    assert {path.name for path in traces.iterdir()} == {"P1.json", "ours.json"}
    assert json.loads((traces / "ours.json").read_text())["traceEvents"]


@pytest.mark.launch
def test_a_launched_group_measures_the_engine(tmp_path: Path) -> None:
    """Two processes with clips of their own: DeepSpeed's engine against DistributedDataParallel."""
    output = tmp_path / "step.json"
    settings = [*TINY, "masking.masks_per_clip=2", "engine.config=zero3.json", "teachers.image.placement=zero3"]
    said = ranks(2, "bench", "step", RECIPE, *settings, "--device", "cpu", "--against", "P1", "--output", str(output))
    result = json.loads(output.read_text())
    assert said.count("written to") == 1 and "under DeepSpeed's engine, zero3.json" in said
    assert (result["processes"], result["engine"]) == (2, "zero3.json") and result["label"].startswith("2 x cpu")
    gate, rows = result["gate"], result["variants"]
    assert gate["equal"] and gate["gradient_norms"]["ours"] == pytest.approx(gate["gradient_norms"]["P1"], rel=1e-4)
    alone = measure_step(RECIPE, TINY, StepBenchOptions(device="cpu", against=("P1",)))["gate"]["losses"]["P1"]
    assert gate["losses"]["P1"] != pytest.approx(alone, rel=1e-6), "the mean over other clips, too"
    assert list(rows) == ["P1", "ours", "ours, 2 masks"] and result["times"]["P1"] > 0
    for row in rows.values():
        assert row["clips_per_second"] == pytest.approx(4 / (row["step_ms"] / 1e3)), "two clips of each of two"
        assert {"teacher image", "teacher video", "student", "backward", "optimizer"} < row["parts_ms"].keys()


def test_teachers_in_fp8_are_a_variant_outside_of_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that has it: here the same rounding, computed in fp32."""
    assert not has_fp8(step_recipe(RECIPE, [*TINY, "engine.precision=bf16"], "recipe", CPU), CPU)
    monkeypatch.setattr(step_variants, "has_fp8", lambda *_: True)
    result = measure_step(RECIPE, TINY, StepBenchOptions(device="cpu", against=("P1",)))
    row, gate = result["variants"]["ours, FP8 teachers"], result["gate"]
    assert gate["equal"] and gate["losses"]["ours, FP8 teachers"] == pytest.approx(gate["losses"]["ours"], rel=0.05)
    assert gate["losses"]["ours, FP8 teachers"] != gate["losses"]["ours"]
    assert set(row["fp8_similarity"]) == {"image", "video"} and all(0.9 < value < 1 for value in row["fp8_similarity"].values())
    assert result["fp8"] == pytest.approx(result["variants"]["ours"]["step_ms"] / row["step_ms"])
    assert "fp8_similarity" not in result["variants"]["ours"] and result["variants"]["ours"]["compiled"] == {}


def test_steps_leave_the_weights_as_they_were() -> None:
    recipe = step_recipe(RECIPE, [*TINY, "engine.precision=bf16"], "recipe", CPU)
    variants, _ = build_variants(recipe, Cluster(0, 1, CPU))
    step = variants["ours"].step
    before = [weight.detach().clone() for weight in step.weights]
    for batch in variants["ours"].batches:
        step.backward(step.loss(batch, Clock(CPU)))
        step.update()
    assert all(weight.equal(old) for weight, old in zip(step.weights, before, strict=True))
    assert all(weight.grad is None for weight in step.weights)


def test_a_teacher_that_is_the_average_is_measured_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """It gets the average in every step, and the yardsticks have none."""
    sizes = [item for item in TINY if not item.startswith("teachers.")]
    settings = [*sizes, "teachers={own: {weights: ema}}", "optimizer.ema_decay=0.5"]
    assert main(["bench", "step", RECIPE, *settings, "--device", "cpu"]) == 2
    assert "the yardsticks keep no average" in capsys.readouterr().err
    recipe = step_recipe(RECIPE, settings, "recipe", CPU)
    step = build_variants(recipe, Cluster(0, 1, CPU), ())[0]["ours"].step
    for value in step.average.values:
        value.add_(1.0)
    step.update()
    weights = dict(step.student.named_parameters())
    for name, parameter in step.teachers["own"].named_parameters():
        assert torch.allclose(parameter, weights[name] + 0.5), name


def test_the_geometry_for_cpus() -> None:
    recipe = step_recipe("mvd_large_from_base", ["masking.masks_per_clip=4"], "cpu", CPU)
    assert math.prod(recipe.grid) == 1568 and recipe.batch.micro == 1 and recipe.engine.precision == "fp32"
    assert (recipe.model.embed_dim, recipe.model.depth, recipe.decoder.depth) == (768, 6, 1)
    assert {(teacher.embed_dim, teacher.depth) for teacher in recipe.teachers.values()} == {(768, 6)}
    assert with_mask_count(recipe, 1).masks_per_clip == 1
    early = step_recipe("mvd_large_from_base", ["teachers.video.target.blocks=[2]"], "cpu", CPU)
    share = recipe_flops(early).teachers["video"] / recipe_flops(recipe).teachers["video"]
    assert share == pytest.approx(0.5, abs=0.02), "blocks behind the one that is read are not counted"


@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [
        ("videomae_base", [], ["video_reconstruction", "distill"]),
        (RECIPE, ["masking.decoder=running_cell"], ["masking.decoder running_cell", "choose all"]),
        (RECIPE, ["model.cls_token=true"], ["model.cls_token", "choose false"]),
        (RECIPE, ["batch.micro=none"], ["batch.micro"]),
        ("mvd_base_from_bas", [], ["mvd_base_from_base"]),
    ],
    ids=["stage one", "decoder mask", "class token", "value", "name"],
)
def test_faulty_input_is_told_in_one_line(
    recipe: str, settings: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "step", recipe, *settings, "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in words), said


def test_parts_of_one_name_are_added() -> None:
    clock = Clock(CPU)
    clock.start()
    clock.mark("a")
    sum(range(200_000))
    clock.mark("b")
    sum(range(200_000))
    clock.mark("b")
    parts = clock.parts()
    assert list(parts) == ["a", "b"] and parts["a"] < parts["b"]


def test_memory_taken_and_returned_is_seen() -> None:
    with PeakMemory(CPU) as memory:
        values = torch.ones(64, 2**20 // 4)
        del values
    assert memory.above is None or 60 * 2**20 < memory.above < 200 * 2**20
