"""Five hundred damaged and hostile checkpoints: one line each, no traceback, no hang, and nothing in them is executed."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.models.formats.zero_shards import MASTER, MOMENTS, ZeroShards
from mvd_ds.training.checkpoint.files import DIGEST, digest_of, read_checkpoint_manifest, write_manifest
from plain_engine import plain_checkpoints
from zero_files import write_shards

MUTANTS = 500


class Hostile:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def hostile(chance: random.Random, marker: Path) -> Hostile:
    return chance.choice(
        [
            Hostile(os.system, f"touch {marker}"),
            Hostile(eval, f"open({str(marker)!r}, 'w')"),
            Hostile(exec, f"open({str(marker)!r}, 'w')"),
            Hostile(open, str(marker), "w"),
            Hostile(subprocess.call, ["touch", str(marker)]),
            Hostile(torch.load, str(marker)),
            Hostile(Path.touch, marker),
        ]
    )


def flip(path: Path, chance: random.Random, marker: Path) -> None:
    """Up to eight bits, half of the time in the first or last kilobyte, where the structure is."""
    content = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 8)):
        ends = [*range(min(1024, len(content))), *range(max(len(content) - 1024, 0), len(content))]
        place = chance.choice(ends) if chance.random() < 0.5 else chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random, marker: Path) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def swap(path: Path, chance: random.Random, marker: Path) -> None:
    other = chance.choice([file for file in sorted(path.parent.iterdir()) if file != path])
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def replace(path: Path, chance: random.Random, marker: Path) -> None:
    """Something that is pickled well and is no shard, or that would do harm."""
    choices: list[Any] = [
        hostile(chance, marker),
        {"optimizer_state_dict": hostile(chance, marker), "module": {}, "averages": [hostile(chance, marker)]},
        {"optimizer_state_dict": {"zero_stage": 3}, "param_shapes": [{"a": [-1]}]},
        {"optimizer_state_dict": None, "param_shapes": None, "averages": 3},
        {"module": {"0.weight": torch.zeros(1)}, "mvd_ds": {"parameter_names": ["0.weight", "gone"]}, "optimizer": {}},
        [torch.zeros(3)],
        None,
    ]
    torch.save(chance.choice(choices), path)
    if chance.random() < 0.3:
        path.write_bytes(pickle.dumps(hostile(chance, marker), protocol=chance.randrange(6)))


MUTATIONS = (flip, cut, swap, replace)


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A hang is a failure."""
    signal.alarm(240)
    yield
    signal.alarm(0)


@pytest.fixture
def pristine(tmp_path: Path) -> Path:
    """A run folder with the checkpoints of steps 1 and 2."""
    run = tmp_path / "pristine"
    run.mkdir()
    checkpoints = plain_checkpoints(run)
    for step in (1, 2):
        checkpoints.engine.train()
        checkpoints.save(step)
    return run


def reseal(checkpoint: Path) -> None:
    """Digests of what is there now: as one who can write the manifest would."""
    manifest = read_checkpoint_manifest(checkpoint)
    for name, entry in manifest["files"].items():
        if (checkpoint / name).exists():
            entry.update({"size": (checkpoint / name).stat().st_size, DIGEST: digest_of(checkpoint / name)})
    write_manifest(checkpoint, manifest)


def line_of(error: ConfigError, mutant: str) -> None:
    text = str(error)
    assert text and "\n" not in text and "Traceback" not in text and len(text) < 700, (mutant, text)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, pristine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Manifests included; every file of a checkpoint is under a digest."""
    for seed in range(MUTANTS // 5):
        chance, run = random.Random(seed), tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(pristine, run)
        newest = run / "checkpoints" / "step-00000002"
        file = chance.choice(sorted(newest.iterdir()))
        before = file.read_bytes()
        mutation = chance.choice(MUTATIONS)
        mutation(file, chance, tmp_path / "marker")
        if file.read_bytes() == before:  # what it was swapped with is the same
            flip(file, chance, tmp_path / "marker")
        assert plain_checkpoints(run, seed=5).load().step == 1, (seed, mutation, file.name)
        said = capsys.readouterr().out.splitlines()
        assert len(said) == 1 and str(newest) in said[0] and said[0].endswith("taking the checkpoint before it"), said
        shutil.rmtree(run / "checkpoints" / "step-00000001")
        with pytest.raises(ConfigError, match=r"none of 1 checkpoints can be read .*; restore one, or remove") as caught:
            plain_checkpoints(run, seed=5).load()
        line_of(caught.value, f"{seed} {mutation}")
        assert capsys.readouterr().out == ""
    assert not (tmp_path / "marker").exists()


def test_a_mutant_with_a_fitting_manifest_is_refused_or_harmless(tmp_path: Path, pristine: Path) -> None:
    """The digest fits, so the content itself is looked at: what is read are numbers, or it is refused."""
    outcomes = {True: 0, False: 0}
    for seed in range(MUTANTS * 2 // 5):
        chance, run = random.Random(seed), tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(pristine, run)
        newest = run / "checkpoints" / "step-00000002"
        shutil.rmtree(run / "checkpoints" / "step-00000001")
        mutation = chance.choice(MUTATIONS)
        mutation(chance.choice(sorted(newest.glob("*.pt"))), chance, tmp_path / "marker")
        try:
            reseal(newest)
            plain_checkpoints(run, seed=5).load()
            outcomes[True] += 1
        except ConfigError as error:
            line_of(error, f"{seed} {mutation}")
            outcomes[False] += 1
    assert not (tmp_path / "marker").exists()
    assert outcomes[False] > 100 and outcomes[True] > 5, outcomes


@pytest.mark.parametrize("stage", [2, 3])
def test_mutants_of_zero_shards(tmp_path: Path, stage: int) -> None:
    state = {"a.weight": torch.randn(5, 3), "a.bias": torch.randn(5), "b.weight": torch.randn(7, 5)}
    moments = {kind: {name: torch.rand_like(value) for name, value in state.items()} for kind in MOMENTS}
    names = write_shards(tmp_path / "pristine", stage, 2, state, moments)
    refused = 0
    for seed in range(MUTANTS // 5):
        chance, folder = random.Random(seed), tmp_path / "mutant"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "pristine", folder)
        mutation = chance.choice(MUTATIONS)
        mutation(folder / chance.choice(names), chance, tmp_path / "marker")
        try:
            shards = ZeroShards(folder, names)
            for kind in shards.kinds:
                for name in shards.shapes:
                    shards.whole(kind, name)
        except ConfigError as error:
            line_of(error, f"{seed} {mutation}")
            refused += 1
    assert refused > 50 and not (tmp_path / "marker").exists()


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_masters_and_moments_are_put_together_exactly(tmp_path: Path, stage: int, world: int) -> None:
    state = {"a.weight": torch.randn(5, 3), "a.bias": torch.randn(5), "b.weight": torch.randn(7, 5), "b.scale": torch.randn(())}
    moments = {kind: {name: torch.rand_like(value) for name, value in state.items()} for kind in MOMENTS}
    shards = ZeroShards(tmp_path, write_shards(tmp_path, stage, world, state, moments, steps=7.0))
    assert shards.kinds == (MASTER, *MOMENTS) and shards.adam_steps == 7 and (shards.stage, shards.world) == (stage, world)
    for kind, values in {MASTER: state, **moments}.items():
        for name, value in values.items():
            assert shards.whole(kind, name).equal(value)
            flat = value.flatten()
            for first in range(len(flat)):
                assert shards.part(kind, name, first, len(flat) - first).equal(flat[first:])


def test_a_refused_class_is_named(tmp_path: Path, pristine: Path) -> None:
    newest = pristine / "checkpoints" / "step-00000002"
    torch.save({"averages": Hostile(os.system, "true")}, newest / "ema_rank_00000.pt")
    reseal(newest)
    shutil.rmtree(pristine / "checkpoints" / "step-00000001")
    with pytest.raises(ConfigError, match=r"ema_rank_00000\.pt: refused: reading it would run pickled code \(posix\.system\)"):
        plain_checkpoints(pristine).load()
