"""Steps that are not finite: noticed without asking the device, told, and dumped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mvd_ds.config import ClipView, ConfigError, OwnClip, TrainingRecipe, load_recipe
from mvd_ds.files import read_json
from mvd_ds.objectives.standardisers.running import RunningStandardiser
from mvd_ds.objectives.terms import LossTerms
from mvd_ds.training.checkpoint.random_state import random_state
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.update_gate import UpdateGate
from mvd_ds.training.nonfinite import finite
from mvd_ds.training.nonfinite.dump import flat, nested
from mvd_ds.training.nonfinite.finite import FiniteWatch, NonFiniteSteps, minimised
from mvd_ds.training.protocols import Inspect
from mvd_ds.training.run_folder import RunFolder
from plain_engine import StageZero

CPU = Cluster(0, 1, torch.device("cpu"))


class Batch(NamedTuple):
    clips: Tensor
    sample: Tensor


class Engine(StageZero):
    """Two linear layers."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
        super().__init__(module, torch.optim.AdamW(module.parameters(), lr=0.1, fused=True))
        self.skipped_steps = 0

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


class Loader:
    """A sound and a bad clip."""

    def again(self, step: int) -> list[Batch]:
        clips = torch.ones(2, 4)
        clips[1, 2] = torch.inf
        return [Batch(clips, torch.tensor([3, 5]))]

    def path_of(self, index: int) -> str:
        return f"{index}.mp4"


@pytest.fixture
def engine() -> Engine:
    return Engine()


def weights(engine: Engine, cluster: Cluster) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in engine.module.named_parameters()}


def steps(engine: Engine, folder: Path, *overrides: str) -> tuple[NonFiniteSteps, LossTerms]:
    """Return the handler, and the losses of a bad step that was taken."""
    recipe = load_recipe("quickstart_distill", list(overrides))
    assert isinstance(recipe, TrainingRecipe)

    def objective(batch: Batch, measure: bool) -> LossTerms:
        total = engine.module(batch.clips).mean()
        return LossTerms(total, {"video": total.detach()})

    objective.statistics, objective.prepare = {}, lambda batches: batches
    handler = NonFiniteSteps(recipe, RunFolder(folder), CPU, engine, UpdateGate(engine), objective, Loader(), weights)
    loss = objective(Loader().again(0)[0], False)
    engine.backward(minimised(loss.total))
    engine.step()
    assert not handler.gate.verdict().passed()
    return handler, loss


def test_a_finite_loss_is_what_it_was_to_the_bit() -> None:
    x = torch.tensor([0.1, 0.7], requires_grad=True)
    total = (x**3).sum()
    (expected,) = torch.autograd.grad(total, x, retain_graph=True)
    (found,) = torch.autograd.grad(minimised(total), x)
    assert torch.equal(minimised(total), total) and torch.equal(found, expected)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_a_loss_that_is_not_finite_has_no_finite_gradient(bad: float) -> None:
    """An infinite sum of finite derivatives would pass unseen otherwise."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    total = x.sum() + bad
    assert torch.autograd.grad(total, x, retain_graph=True)[0].isfinite().all()
    assert torch.autograd.grad(minimised(total), x)[0].isnan().all()


def test_outputs_and_gradients_are_named_in_their_order() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 1))
    with FiniteWatch(model) as watch:
        model(torch.tensor([[1.0, torch.inf]])).sum().backward()
    assert watch.names()[:2] == ["output of 0", "output of 1"] and "gradient of 0.weight" in watch.names()
    with FiniteWatch(model) as quiet:
        model(torch.ones(1, 2)).sum().backward()
    assert quiet.names() == []
    assert not model[0]._forward_hooks and not model[0].weight._backward_hooks


def test_a_bad_step_is_told_dumped_and_changes_nothing(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [p.detach().clone() for p in engine.module.parameters()]
    handler, loss = steps(engine, tmp_path)
    drawn = random_state()["torch"]
    handler.handle(7, [loss])
    assert handler.gate.verdict().passed() and engine.skipped_steps == 1 and random_state()["torch"].equal(drawn)
    line = capsys.readouterr().err
    assert all(word in line for word in ("step 7", "rank 0", "loss video", "output of 0", "3.mp4, 5.mp4", "1 of at most 10")), (
        line
    )
    assert all(torch.equal(a, b) for a, b in zip(before, engine.module.parameters(), strict=True))
    dump = tmp_path / "dumps" / "step-00000007"
    assert f"python -m mvd_ds replay {dump}" in line
    kept = nested({name.partition(".")[2]: value for name, value in load_file(dump / "rank-0.safetensors").items()}, Batch)
    assert torch.equal(kept.clips, Loader().again(6)[0].clips) and kept.sample.tolist() == [3, 5]
    values = read_json(dump / "dump.json")
    assert values["step"] == 7 and values["ranks"][0]["micro_batches"][0]["clips"] == ["3.mp4", "5.mp4"]
    assert values["recipe"]["objective"] == "distillation" and load_file(dump / "student.safetensors").keys()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [(["run.on_nonfinite=stop"], "run.on_nonfinite is stop"), (["run.nonfinite_limit=0"], "more than run.nonfinite_limit 0")],
)
def test_a_setting_ends_the_run(overrides: list[str], words: str, engine: Engine, tmp_path: Path) -> None:
    handler, loss = steps(engine, tmp_path, *overrides)
    with pytest.raises(ConfigError, match=words) as caught:
        handler.handle(1, [loss])
    assert "\n" not in str(caught.value)


def test_a_target_that_is_not_finite_is_named_and_not_blamed_on_the_student(engine: Engine, tmp_path: Path) -> None:
    """A teacher that overflows makes the loss bad, and no module or gradient before it."""

    class Objective:
        names = ("video",)
        inspect: Inspect | None = None

        def __init__(self) -> None:
            self.statistics = {"video.standardise": RunningStandardiser(1, "video")}

        def prepare(self, batches: Iterable[Batch]) -> Iterable[Batch]:
            return batches

        def __call__(self, batch: Batch, measure: bool) -> LossTerms:
            target = torch.full((2, 1), torch.inf)
            self.statistics["video.standardise"].observe(target, target)
            if self.inspect is not None:
                self.inspect("targets of video", target)
            total = (engine.module(torch.ones(2, 4)) - target).square().mean()
            return LossTerms(total, {"video": total.detach()})

    recipe = load_recipe("quickstart_distill", ["run.on_nonfinite=stop"])
    assert isinstance(recipe, TrainingRecipe)
    objective = Objective()
    handler = NonFiniteSteps(recipe, RunFolder(tmp_path), CPU, engine, UpdateGate(engine), objective, Loader(), weights)
    line = r"loss video of rank 0 is not finite \(first targets of video, .*Use engine\.precision=fp32"
    with pytest.raises(ConfigError, match=line):
        handler.handle(1, [objective(Loader().again(0)[0], False)])
    assert objective.inspect is None
    running = objective.statistics["video.standardise"]
    assert running.mean.item() == 0.0 and running.deviation.item() == 1.0 and not running.sums.any()


def test_no_more_dumps_than_the_disk_can_bear(engine: Engine, tmp_path: Path) -> None:
    handler, loss = steps(engine, tmp_path)
    for step in range(1, 6):
        handler.handle(step, [loss])
    assert len(list((tmp_path / "dumps").iterdir())) == finite.DUMPS


def test_a_dump_that_cannot_be_written_ends_no_run(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dumps").write_text("in the way")
    handler, loss = steps(engine, tmp_path)
    handler.handle(2, [loss])
    assert "no dump: " in capsys.readouterr().err


def test_a_batch_is_put_together_as_it_was() -> None:
    class Views(NamedTuple):
        views: dict[ClipView, Tensor]
        mask: Tensor
        faults: list[str]
        cached: dict[str, Tensor] | None = None

    own = OwnClip(32, 8, 0.5)
    kept = {"video": torch.ones(1), "video.scale": torch.zeros(1)}
    batch = Views({48: torch.ones(2), 32: torch.zeros(3), own: torch.ones(5)}, torch.arange(4), ["x"], kept)
    again: Any = nested(flat(batch), Views)
    assert again.views.keys() == {48, 32, own} and torch.equal(again.views[32], batch.views[32])
    assert again.views[own].shape == (5,) and again.cached.keys() == kept.keys()
    assert torch.equal(again.mask, batch.mask) and again.faults == []
