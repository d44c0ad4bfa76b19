"""Plans: formulas against counted networks and saved activations, remedies that fit, a page that says what is assumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mvd_ds.cli import main
from mvd_ds.config import ConfigError
from mvd_ds.models.cross_attention import CrossBlock
from mvd_ds.models.layers import Block
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.machine.devices import HOP_SECONDS, START_SECONDS, devices, find_machine, read_network
from mvd_ds.tools.plan.memory import activation_bytes
from mvd_ds.tools.plan.page import print_plan
from mvd_ds.tools.plan.plan import Planner, admissible_counts, nearest_counts, student_configs
from mvd_ds.tools.plan.sizes import recipe_sizes
from shrinking import shipped

FLAGSHIP = "mvd_large_from_large"


def _planner(*overrides: str, name: str = FLAGSHIP, gpu: str = "h200", network: str | None = None) -> Planner:
    return Planner(name, list(overrides), find_machine(gpu, network, None, None, 0.45), 240_436, 65.0)


def test_sizes_are_those_of_the_networks(shrunk: list[str]) -> None:
    recipe = shipped([*shrunk, "teachers.video.target.blocks=[1]"])
    sizes = recipe_sizes(recipe)
    assert sizes.student.parameters == sum(parameter.numel() for parameter in build_predictor(recipe).parameters())
    for name, settings in recipe.teachers.items():
        teacher = build_teacher(name, settings, recipe)
        assert sizes.teachers[name].parameters == sum(parameter.numel() for parameter in teacher.parameters()), name


@pytest.mark.parametrize("name", ["clip_base", "aclip_base"])
def test_vectors_of_captions_come_first_where_a_step_has_several_micro_batches(name: str) -> None:
    one, several = (_planner(name=name).case(gpus) for gpus in (64, 32))
    assert one is not None and several is not None
    flops = _planner(name=name).sizes.flops
    first, trained = flops.encoder + flops.language, flops.encoder + flops.language + sum(flops.decoders.values())
    assert several.time.student / one.time.student == pytest.approx(2 * (3 * trained + first) / (3 * trained))
    assert several.time.teachers == pytest.approx(4 * one.time.teachers)  # of aclip: it draws the masks of each pass


def test_published_sizes() -> None:
    """P of the students with their decoders, and of the teachers. Source: the models' papers, and counted before."""
    sizes = _planner().sizes
    assert sizes.student.parameters / 1e6 == pytest.approx(331, abs=1)
    assert sizes.teachers["video"].parameters / 1e6 == pytest.approx(303.9, abs=0.5)
    assert (sizes.student.tokens, sizes.decoders["video"].tokens) == (160, 1568)
    assert sizes.flops.training / 1e12 == pytest.approx(2.858, rel=0.01)
    cross = _planner("decoder.attention=cross").sizes
    assert cross.decoders["video"].tokens == 1408 and cross.flops.training < sizes.flops.training


@pytest.mark.parametrize(("visible", "tokens"), [(None, 40), (None, 392), (44, 348)])
def test_a_block_keeps_sixteen_values_a_token_and_channel(visible: int | None, tokens: int) -> None:
    """Counted where autograd keeps them, in fp32 on the CPU, whose attention keeps what fused kernels do.

    A block of cross-attention keeps as many for its queries, with what it keeps of a source of ``visible`` tokens.
    """
    block = Block(64, 2, 4.0, "query_value", "sdpa", 1e-6) if visible is None else CrossBlock(64, 64, 2, kernel="sdpa")
    source = None if visible is None else torch.randn(2, visible, 64, requires_grad=True)
    weights = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = block(torch.randn(2, tokens, 64, requires_grad=True), source)
    assert sum(kept.values()) / (4 * 64 * 2 * tokens) == pytest.approx(16, rel=0.1)
    assert output.requires_grad


def test_checkpointing_saves_what_it_says() -> None:
    planner = _planner()
    whole = activation_bytes(planner.load(["model.activation_checkpointing=0"]), planner.sizes)
    half = activation_bytes(planner.load(["model.activation_checkpointing=2"]), planner.sizes)
    least = activation_bytes(planner.load(["model.activation_checkpointing=1"]), planner.sizes)
    assert whole > half > least
    # 32 d L T bytes of the encoder and of both decoders without; 2 d L T with, and one block of the larger stack.
    encoder, decoder = 24 * 1024 * 160, 4 * 512 * 1568
    saved = 8 * (30 * (encoder + 2 * decoder) - 32 * 512 * 1568)
    assert whole - least == pytest.approx(saved)


def test_memory_of_a_replicated_and_a_sharded_teacher() -> None:
    planner = _planner("teachers.image.placement=replicated")
    memory = planner.case(8).memory.device
    parameters = planner.sizes.teachers["image"].parameters
    assert memory["teacher image"] == 2 * parameters
    share = 2 * parameters / 8
    assert share < memory["teacher video"] < 1.1 * share


def test_fp8_halves_a_teacher_and_is_assumed_to_be_faster() -> None:
    sizes = ["teachers.video.placement=replicated"]
    usual, rounded = _planner(*sizes).case(8), _planner(*sizes, "teachers.video.fp8=true").case(8)
    assert rounded.memory.device["teacher video"] == usual.memory.device["teacher video"] / 2
    assert rounded.time.teachers < usual.time.teachers and rounded.time.student == usual.time.student


def test_the_average_takes_four_bytes_a_weight_and_follows_where_shards_are_not_alike() -> None:
    living, frozen = "vjepa_base", "teachers={average: {size: base, network_style: vjepa2, weights: random}}"
    planner = _planner(name=living)
    case, without = planner.case(8), _planner(frozen, "optimizer.ema_decay=null", name=living).case(8)
    assert without is not None and case is not None
    assert case.memory.device["moving average"] == pytest.approx(4 * planner.sizes.student.parameters / 8, rel=0.01)
    assert "moving average" not in without.memory.device
    assert case.time.optimizer == pytest.approx(without.time.optimizer * (1 + 12 / case.machine.device.adam_bytes), rel=0.01)
    assert case.time.step_communication > 1.5 * without.time.step_communication, "a whole teacher is summed over all"
    alike = _planner("engine.config=zero3.json", "teachers.average.placement=zero3", name=living).case(8)
    assert alike is not None and alike.time.step_communication == 0, "shards that are alike are copied where they are"


def test_sharding_more_takes_less_and_offload_moves_it() -> None:
    cases = {case.recipe.engine.config: case for case in _planner("batch.micro=1").configs(64)}
    parts = {name: case.memory.device["weights, gradients, optimizer"] for name, case in cases.items()}
    assert parts["zero1.json"] > parts["zero3.json"] > parts["zero3_offload.json"]
    assert cases["zero3_offload.json"].memory.host["offloaded"] > 0 == cases["zero3.json"].memory.host["offloaded"]
    assert cases["zero3_offload.json"].time.optimizer > cases["zero3.json"].time.optimizer


def test_collectives_take_bytes_over_the_narrower_link_and_hops() -> None:
    machine = find_machine("h200", "2x200Gb/s", None, None, 0.45)
    assert machine.collective_seconds(1e9, 1, 1) == 0
    inside = machine.collective_seconds(8e9, 1, 8)
    assert inside == pytest.approx(7e9 / (0.75 * 450e9) + START_SECONDS + 7 * HOP_SECONDS["nvlink"])
    between = machine.collective_seconds(8e9, 1, 16)
    hops = 14 * HOP_SECONDS["nvlink"] + HOP_SECONDS["network"]
    assert between == pytest.approx(4e9 / (0.75 * 50e9) + START_SECONDS + hops)


@pytest.mark.parametrize(
    ("text", "rate"), [("400Gb/s", 8 * 50e9), ("2x200Gb/s", 50e9), ("1x12.5GB/s", 12.5e9), ("100Gb/s", 8 * 12.5e9)]
)
def test_networks(text: str, rate: float) -> None:
    assert read_network(text, 8) == rate


@pytest.mark.parametrize("text", ["400", "fast", "0Gb/s", "8x", "400 Gb/s"])
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="write 400Gb/s"):
        read_network(text, 8)


def test_an_unknown_device_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--gpu h20: not known; did you mean 'h200'\? there are h200"):
        find_machine("h20", None, None, None, 0.45)
    assert all(row.matrix_tflops <= row.bf16_tflops for row in devices().values())


def test_communication_hides_behind_arithmetic_until_the_network_is_slow() -> None:
    fast, slow = (_planner(network=text).case(64).time for text in ("400Gb/s", "1x10Gb/s"))
    assert fast.visible_communication < 0.05 * fast.total and fast.student_communication > 0
    assert slow.visible_communication > 0.5 * slow.total
    assert slow.compute == fast.compute
    stage1 = _planner("engine.config=zero1.json").case(64).time
    assert not stage1.overlaps and stage1.visible_communication >= stage1.step_communication > 0


def test_a_loader_that_starves_is_seen() -> None:
    time = _planner("data.workers=1").case(8).time
    assert time.visible_data > 0 and time.total == pytest.approx(time.data)
    rich = Planner(FLAGSHIP, ["data.workers=24"], find_machine("h200", None, None, None, 0.45), 240_436, 10.0).case(8)
    assert rich.time.visible_data == 0 and rich.cores_per_node < rich.machine.cores_per_node


def test_more_masks_cost_less_than_more_clips() -> None:
    one, four = (_planner(f"masking.masks_per_clip={masks}").case(8) for masks in (1, 4))
    assert one.time.total < four.time.total < 2.5 * one.time.total
    # Under one mask the last MLP of a teacher computes hidden tokens alone.
    assert one.time.teachers < four.time.teachers < 1.005 * one.time.teachers


def test_work_is_shared_out() -> None:
    eight, sixteen = _planner().case(8), _planner().case(16)
    assert eight.time.compute == pytest.approx(2 * sixteen.time.compute, rel=0.01)
    assert eight.steps == sixteen.steps == 240_436 // 512 * 800


def test_admissible_counts(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _planner().recipe
    assert admissible_counts(recipe) == [1, 2, 4, 8, 16, 32, 64]
    assert _planner().case(128).recipe.batch.micro == 4, "a smaller micro batch where the recipe's does not divide"
    assert _planner().plan(128).smaller_micro == 4 and _planner().plan(64).smaller_micro is None
    assert _planner().case(3) is None and _planner().case(1024) is None
    assert nearest_counts(recipe, 33) == [32, 64] and nearest_counts(recipe, 1000) == [512]
    plan = _planner().plan(33)
    print_plan(plan._replace(configs=[], scaling=[]), _planner().machine)
    assert "divides the global batch on 33 GPUs; one does on 32 and 64" in capsys.readouterr().out


def test_what_does_not_fit_is_mended_by_settings_that_fit() -> None:
    name, changes = "mvd_huge_from_huge", ["batch.micro=64", "batch.global=1024", "model.activation_checkpointing=0"]
    planner = _planner(*changes, name=name, gpu="rtx4090")
    assert not planner.case(8).fits
    found = planner.remedy(8)
    assert found is not None
    settings, case = found
    assert case.fits and settings
    again = _planner(*changes, *settings, name=name, gpu="rtx4090").case(8)
    assert again.fits and again.time.total == case.time.total


def test_what_fits_is_told_how_it_would_be_faster() -> None:
    planner = _planner("data.workers=1")
    case = planner.case(8)
    found = planner.advice(case)
    assert found is not None and {"model.activation_checkpointing=0", "data.workers=24"} <= set(found.overrides)
    again = _planner("data.workers=1", *found.overrides)
    assert again.case(8).time.total == found.case.time.total < 0.2 * case.time.total
    assert again.advice(again.case(8)) is None, "there is nothing left to say"


def test_configs_are_all_there_the_best_first() -> None:
    cases = _planner().configs(64)
    assert sorted(case.recipe.engine.config for case in cases) == student_configs()
    times = [case.time.total for case in cases if case.fits]
    assert times == pytest.approx(sorted(times), rel=0.02) and [case.fits for case in cases] == sorted(
        (case.fits for case in cases), reverse=True
    )


def test_stage_one_has_a_plan_too_and_a_probe_has_none() -> None:
    assert _planner(name="videomae_base").case(8).time.teachers == 0
    with pytest.raises(ConfigError, match="has no plan"):
        _planner(name="quickstart_probe")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"--json={tmp_path / 'plan.json'}", f"--plot={tmp_path / 'plan.png'}"]
    assert main(["plan", FLAGSHIP, "--gpus", "64", "--gpu", "h200", "--network", "400Gb/s", *files]) == 0
    page = capsys.readouterr().out
    assert "Assumed, not measured" in page and "240,436 clips an epoch assumed" in page and "zero3_offload.json" in page
    written = json.loads((tmp_path / "plan.json").read_text())
    case = written["case"]
    assert case["step_seconds"]["total"] * case["clips_per_second"] == pytest.approx(512)
    assert case["gpu_hours"] == pytest.approx(64 * case["hours"])
    assert [row["gpus"] for row in written["scaling"]] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, said in (("--plot=plan.xyz", "plan.png, plan.svg or plan.pdf"), ("--gpu=h300", "did you mean")):
        assert main(["plan", FLAGSHIP, wrong]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error


def test_a_plan_that_does_not_fit_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["batch.micro=64", "model.activation_checkpointing=0", "batch.global=512"]
    assert main(["plan", "mvd_huge_from_huge", *settings, "--gpus", "8", "--gpu", "rtx4090"]) == 1
    assert "it does not fit; the cheapest way that does: " in capsys.readouterr().out


def test_the_manifest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("".join(f"{number}.mp4\n" for number in range(1024)))
    for number in range(1024):
        (tmp_path / f"{number}.mp4").touch()
    machine = find_machine("h200", None, None, None, 0.45)
    plan = Planner(FLAGSHIP, [f"data.manifest={tmp_path / 'train.txt'}"], machine, None, 65.0).plan(8)
    assert plan.case is not None and plan.case.steps == 2 * 800 and plan.notes == []
    with pytest.raises(ConfigError, match=r"1024 clips are fewer than batch.global 2048"):
        Planner(FLAGSHIP, [f"data.manifest={tmp_path / 'train.txt'}", "batch.global=2048"], machine, None, 65.0).plan(8)
