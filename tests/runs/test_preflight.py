"""What a pre-flight says of targets, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from launching import alone
from mvd_ds.config import ConfigError, load_recipe
from mvd_ds.objectives.diagnostics import mean_target_loss
from mvd_ds.runs import preflight as module
from mvd_ds.runs.caching.cache_targets import cache_targets
from mvd_ds.runs.preflight import STATISTICS, _of_targets, _statistics, _step_seconds, preflight
from mvd_ds.training.cluster import Cluster
from shrinking import RECIPE, SCALES, shipped


def statistics(target: torch.Tensor) -> dict[str, float]:
    return dict(zip(STATISTICS, _statistics(target, mean_target_loss(target, "smooth_l1")).tolist(), strict=True))


def test_statistics_of_targets_that_are_known() -> None:
    noise = torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(0))
    found = statistics(2 * noise + 3)
    assert found["mean"] == pytest.approx(3, abs=0.1) and found["deviation"] == pytest.approx(2, abs=0.1)
    assert found["norm"] == pytest.approx((32 * 13) ** 0.5, rel=0.05) and found["finite"] == 1
    assert found["effective_rank"] > 28 and found["loudest_channel"] < 0.06
    assert found["mean_target_loss"] == pytest.approx(float(torch.nn.functional.smooth_l1_loss(2 * noise, 0 * noise)), rel=0.02)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("good", None),
        ("flat", "effective rank of 0.0; there is nothing to learn"),
        ("broken", "are not finite; every step would be skipped"),
        ("loud", "% of the targets' variance; teachers.image.target.standardise=phi_s evens them out"),
    ],
)
def test_targets_that_would_spoil_a_training_are_named(kind: str, words: str | None, shrunk: list[str]) -> None:
    target = torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(0))
    if kind == "flat":
        target = torch.ones(4, 64, 32)
    if kind == "broken":
        target[0, 0, 0] = torch.nan
    if kind == "loud":
        target[..., 5] *= 30
    found = list(_of_targets({"image": statistics(target)}, shipped(shrunk)))
    assert not found if words is None else len(found) == 1 and words in found[0]


def test_other_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="preflight is for recipes of pretrain and distill; x is one of probe"):
        preflight(load_recipe("quickstart_probe"), "x")


def test_students_are_tried_one_by_one_and_that_is_said(
    shrunk: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No fault of each alone is no promise that the states of all fit."""
    tried, alone = [0, 1], contextlib.nullcontext(Cluster(0, 1, torch.device("cpu")))
    monkeypatch.setattr(module, "joined_cluster", lambda *_: alone)
    monkeypatch.setattr(module, "_try", lambda recipe, own: tried.pop(recipe.model.depth - 2))
    several = [*shrunk, "students.b={}", "students.s.model.depth=2"]
    assert preflight(shipped(several), "x") == 1 and not tried
    with pytest.raises(ConfigError, match=r"students.s.ranks 1: this run has 1 processes, of which the first is 0"):
        preflight(shipped([*several, "students.s.ranks=1"]), "x")
    assert "each student was tried alone; a run holds the states of all" in capsys.readouterr().out


def test_its_steps_are_those_of_the_training(shrunk: list[str]) -> None:
    """Losses over a whole step look at all of its micro batches first, which takes time, too."""
    seen: list[object] = []

    class Objective:
        def prepare(self, batches: list[str]) -> list[str]:
            seen.append(batches)
            return batches

        def __call__(self, batch: str, measure: bool) -> SimpleNamespace:
            seen.append(batch)
            return SimpleNamespace(total=None)

    recipe = shipped([*shrunk, "batch.micro=2", "batch.global=4"])
    engine = SimpleNamespace(backward=lambda loss: None, step=lambda: None)
    trainer = SimpleNamespace(recipe=recipe, engine=engine, cluster=SimpleNamespace(world=1, barrier=lambda: None))
    _step_seconds(trainer, Objective(), ["a", "b", "c", "d"])  # type: ignore[arg-type]
    assert seen == [["a", "b"], "a", "b", ["c", "d"], "c", "d"]


@pytest.mark.launch
def test_cached_targets_are_tried_as_those_of_teachers(
    shrunk: list[str], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same numbers to the last digit that is said, by no teacher; a cache of others is refused."""
    live = [*shrunk, *SCALES, f"data.manifest={videos / 'val.txt'}", f"run.output={tmp_path / 'run'}"]
    live += ["targets.crops=2", "data.clip.flip=0.5", "batch.micro=8", "batch.global=16", "calibration_clips=8"]
    kept = [*live, f"targets.cache={tmp_path / 'cache'}", "targets.store=fp32"]
    cache_targets(shipped(kept), RECIPE)
    said = []
    for recipe in (live, kept):
        capsys.readouterr()
        assert preflight(shipped(recipe), RECIPE) == 0
        said.append(capsys.readouterr().out)
    asked, cached = ([line for line in text.splitlines() if line.startswith("target ")] for text in said)
    assert len(asked) == 4 and cached == asked
    assert "teacher video: not loaded" in said[1] and "teacher video: not loaded" not in said[0]
    with pytest.raises(ConfigError, match=r"holds other targets .*targets\.crops: 2 -> 1"):
        preflight(shipped([*kept, "targets.crops=1"]), RECIPE)
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_a_recipe_is_tried_and_nothing_is_left(shrunk: list[str], tmp_path: Path) -> None:
    said = alone("preflight", RECIPE, *shrunk, *SCALES, f"run.output={tmp_path / 'run'}").stdout
    scaled = ("target image: standardise phi_s takes features of deviation", "target video: standardise running takes")
    for words in (*scaled, "target image: mean", "target video: mean", "ms of a core a clip", "step peak", "no fault was found"):
        assert words in said, said
    assert not (tmp_path / "run").exists()
