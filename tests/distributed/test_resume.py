"""One run handed on among 1, 2 and 4 processes and all ZeRO stages: the losses and the average of the untouched run.

Every direction once, with an average, drop path, two parameter groups and all statistics that targets may have; and what a
damaged checkpoint, a full disk and a process too many do to it.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from launching import alone, launch, losses
from mvd_ds.training.checkpoint.files import newest_first, read_checkpoint_manifest
from shrinking import LOOKING, RECIPE, SCALES, STEPS

pytestmark = pytest.mark.launch

#: Launched processes, ZeRO, step at which this attempt ends. Three processes do not divide the batch: two go on.
LEGS = [
    (1, "zero3.json", 3),
    (2, "zero2.json", 6),
    (4, "zero3.json", 9),
    (1, "zero1.json", 12),
    (4, "zero3_lowmem.json", 14),
    (3, "zero1.json", 17),
    (1, "zero2.json", 20),
]


@pytest.fixture(scope="module")
def stateful(shrunk: list[str], parts: list[str]) -> list[str]:
    """The shrunk recipe with every kind of target and of their statistics, dropped teachers, masks that look, cross decoders."""
    scaled = ["teachers.video.target.standardise=running", "teachers.video.target.normalise=false"]
    return [*shrunk, *SCALES, *parts, *scaled, *LOOKING, "balance=loss_relative", "optimizer.ema_decay=0.9"]


@pytest.fixture(scope="module")
def untouched(stateful: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run in one go: two processes, the recipe's own ZeRO-3."""
    folder = tmp_path_factory.mktemp("untouched") / "run"
    launch(2, "distill", RECIPE, *stateful, f"run.output={folder}")
    return folder


@pytest.fixture(scope="module")
def handed_on(stateful: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run after all legs, and what each said."""
    folder, said = tmp_path_factory.mktemp("resume") / "run", []
    for processes, engine, last in LEGS:
        command = ["distill", RECIPE, *stateful, f"run.output={folder}"]
        command += [f"engine.config={engine}", f"run.stop_after_steps={last}"]
        done = alone(*command) if processes == 1 else launch(processes, *command)
        said.append(done.stdout)
    return folder, said


def test_the_losses_are_those_of_the_untouched_run(untouched: Path, handed_on: tuple[Path, list[str]]) -> None:
    folder, said = handed_on
    for name in ("total", "image", "image_summary", "video", "video_relations", "labels", "language"):
        found, expected = (losses(run, f"loss/{name}") for run in (folder, untouched))
        assert len(found) == STEPS and found == pytest.approx(expected, rel=1e-5), name
    for (_, _, before), text in zip(LEGS, said[1:], strict=False):
        assert f"resuming from the checkpoint of step {before}" in text
    assert "world: 1 -> 2; zero stage: 3 -> 2" in said[1]
    assert "2 go on, with accumulation 2, and rank 2 idles" in said[5] and "world: 4 -> 2" in said[5]


def test_weights_and_statistics_are_those_of_the_untouched_run(untouched: Path, handed_on: tuple[Path, list[str]]) -> None:
    for file in ("model.safetensors", "ema.safetensors", "target_statistics.safetensors"):
        got, expected = load_file(handed_on[0] / "model" / file), load_file(untouched / "model" / file)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            found, value = seen_by_softmax(name, got[name]), seen_by_softmax(name, value)
            assert (found - value).norm() <= 1e-5 * value.norm() + 1e-6, (file, name)
    weights, average = (load_file(untouched / "model" / file) for file in ("model.safetensors", "ema.safetensors"))
    assert any((weights[name] - average[name]).norm() > 1e-3 * weights[name].norm() for name in weights), "an average of its own"


def test_blocks_that_read_texts_too_are_once_in_a_checkpoint(untouched: Path) -> None:
    """Under ZeRO-3: one tensor, one fp32 master and one pair of moments; parts of ranks add up to the parameters and padding."""
    weights = load_file(untouched / "model" / "model.safetensors")
    borrowed = {name.split(".")[3] for name in weights if name.startswith("language.text.norms.")}
    own = {name.split(".")[3] for name in weights if name.startswith("language.text.blocks.")}
    assert borrowed and own.isdisjoint(borrowed)
    assert all(f"encoder.blocks.{block}.mlp.expand.weight" in weights for block in borrowed)
    parameters = sum(value.numel() for value in weights.values())
    kept = dict.fromkeys(("masters", "exp_avg", "exp_avg_sq"), 0)
    for part in newest_first(untouched / "checkpoints")[0].glob("*optim_states.pt"):
        held = torch.load(part, weights_only=False)["optimizer_state_dict"]
        kept["masters"] += sum(group.numel() for group in held["fp32_flat_groups"])
        for state in held["optimizer_state_dict"]["state"].values():
            for name in ("exp_avg", "exp_avg_sq"):
                kept[name] += state[name].numel()
    for name, count in kept.items():
        assert parameters <= count < parameters + len(weights), name


def seen_by_softmax(name: str, value: Tensor) -> Tensor:
    """Leave out the bias of keys: it adds one number to all scores of a row, so that its gradient is rounding noise, of which
    Adam makes steps."""
    if name.endswith("attention.key_value.bias"):
        return value.chunk(2)[1]
    if name != "decoders.video_relations.head.bias":
        return value
    queries, _, values = value.chunk(3)
    return torch.cat((queries, values))


def test_a_damaged_checkpoint_and_then_a_full_disk(
    stateful: list[str], handed_on: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """The newest is damaged: the one before goes on. Then no file may grow: all ranks end with one line, all is whole."""
    folder = shutil.copytree(handed_on[0], tmp_path / "run")
    newest, before = newest_first(folder / "checkpoints")
    largest = max(newest.glob("*.pt"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    command = ["distill", RECIPE, *stateful, f"run.output={folder}", "run.save_every_steps=1"]
    with largest_file(largest.stat().st_size // 4):
        done = launch(2, *command, check=False)
    assert f"{largest}: its content is not what was written (another sha256); taking the checkpoint before it" in done.stdout
    assert "resuming from the checkpoint of step 17" in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("mvd_ds:")]
    assert done.returncode == 2 and len(lines) <= 2, done.stderr
    assert all("could not be written (File too large); the checkpoint before it is whole" in line for line in lines), lines
    assert "Traceback" not in done.stdout + done.stderr
    assert not list((folder / "checkpoints").glob("writing-*"))
    assert read_checkpoint_manifest(before)["step"] == 17 and read_checkpoint_manifest(newest)["step"] == 20


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside, processes that are started cannot write a file beyond ``size`` bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
