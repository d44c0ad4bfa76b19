"""Six kills at chosen places in one run; what comes out of it is the run that nobody touched, bit by bit.

The run has a sharded teacher that is the student's average, with features and prototypes, so that nothing which follows it is
lost or counted twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launching import launch
from mvd_ds.training.checkpoint.files import newest_first
from shrinking import AVERAGED, RECIPE
from soak.kills import Life, check, kill, resumed_step, saved_step, strike, trace

pytestmark = pytest.mark.launch

PLACES = ("save", "launcher", "command", "rank 0", "group", "resume")


@pytest.fixture(scope="module")
def arguments(shrunk: list[str]) -> list[str]:
    """The command of the run, with the output left open."""
    return ["distill", RECIPE, *shrunk, *AVERAGED, "teachers.own.placement=zero3", "run.features_every_steps=5"]


@pytest.fixture(scope="module")
def untouched(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run in one go."""
    folder = tmp_path_factory.mktemp("untouched") / "run"
    launch(2, *arguments, f"run.output={folder}")
    return folder


def killed(folder: Path, arguments: list[str], place: str, chance: random.Random) -> None:
    """Start the run and kill it at ``place``; a moment that was missed, as on a busy machine, is tried again.

    Resuming is over in an instant. So that a start whose resuming was missed does not run to the end, it stops a step later.
    """
    for _ in range(6):
        before = saved_step(folder)
        more = [f"run.stop_after_steps={before + 1}"] if place == "resume" else []
        with Life(folder, 2, [*arguments, *more]) as life:
            if place in ("save", "resume"):
                found = kill(life, place, chance)
            else:
                life.wait_until(lambda before=before: saved_step(folder) > before, "the next save")
                found = strike(life, place, 0, before)
        if found is None and place == "resume":
            continue
        assert found is not None, f"the run ended before all kills:\n{life.said()}"
        print(found)
        check(found)
        if found.kind == place:
            return
    raise AssertionError(f"{place} was missed six times")


def test_a_run_killed_six_times_is_the_untouched_run(untouched: Path, arguments: list[str], tmp_path: Path) -> None:
    folder, chance = tmp_path / "run", random.Random(5)
    often = [*arguments, "run.save_every_steps=1"]
    for place in PLACES:
        killed(folder, often, place, chance)
    before = saved_step(folder)
    with Life(folder, 2, often) as last:
        assert last.finish() == 0, last.said()
    assert resumed_step(last) == before
    assert trace(folder) == trace(untouched)
    for file in ("model.safetensors", "ema.safetensors", "target_statistics.safetensors"):
        found, expected = (load_file(path / "model" / file) for path in (folder, untouched))
        assert found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in expected), file


def test_an_average_that_teaches_is_in_a_checkpoint_once(untouched: Path) -> None:
    """Of a student of P weights: two moments, masters, the average, and no other tensor of that size."""
    weights = sum(value.numel() for value in load_file(untouched / "model" / "model.safetensors").values())
    (newest,) = newest_first(untouched / "checkpoints")[:1]
    sizes = [size for path in newest.glob("*.pt") for size in tensor_sizes(torch.load(path, weights_only=False))]
    assert 4 * weights <= sum(sizes) <= 4.1 * weights


def tensor_sizes(content: Any) -> Iterator[int]:
    """Yield the number of elements of every tensor of floats in nested containers."""
    if isinstance(content, torch.Tensor):
        yield content.numel() if content.is_floating_point() else 0
    elif isinstance(content, dict | list | tuple):
        for value in content.values() if isinstance(content, dict) else content:
            yield from tensor_sizes(value)
