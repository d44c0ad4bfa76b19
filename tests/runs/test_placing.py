"""Teachers are placed as fast as their settings and the device allow, or refused with the reason."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.models.acceleration import graphed
from mvd_ds.models.acceleration.graphed import GraphedForward, is_worth_it
from mvd_ds.models.layers import Block, pick
from mvd_ds.models.teachers import build_teacher, plan_teacher
from mvd_ds.runs import placing
from mvd_ds.runs.placing import accelerate, place_teachers, require_similar
from mvd_ds.training.cluster import Cluster
from shrinking import shipped

ALONE = Cluster(0, 1, torch.device("cpu"))


@pytest.fixture
def tiny(shrunk: list[str]) -> TrainingRecipe:
    return shipped([*shrunk, *(f"teachers.{name}.placement=replicated" for name in ("image", "video"))])


def _clips(recipe: TrainingRecipe) -> dict[int, torch.Tensor]:
    clip = recipe.data.clip
    generator = torch.Generator().manual_seed(0)
    return {clip.size_px: torch.randint(0, 256, (2, 3, clip.frames, clip.size_px, clip.size_px), generator=generator).byte()}


def _with(recipe: TrainingRecipe, **changes: object) -> TrainingRecipe:
    teachers = {name: settings.model_copy(update=changes) for name, settings in recipe.teachers.items()}
    return recipe.model_copy(update={"teachers": teachers})


def _place(recipe: TrainingRecipe) -> dict:
    plans = {name: plan_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    return place_teachers(recipe, plans, ALONE, lambda: _clips(recipe))


def test_fp8_is_refused_where_there_is_none(tiny: TrainingRecipe) -> None:
    with pytest.raises(ConfigError, match=r"teachers.image.fp8 true: it runs on cpu, and only GPUs .*; choose fp8: false"):
        _place(_with(tiny, fp8=True))


def test_fp8_is_judged_on_clips_of_the_run(tiny: TrainingRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that had it: features of random teachers lie too far away, and with a lower bar they are taken."""
    monkeypatch.setattr(placing, "fp8_obstacle", lambda *_: None)
    monkeypatch.setattr(placing, "LEAST_SIMILARITY", 0.99999)
    with pytest.raises(ConfigError, match=r"teachers.image.fp8 true: its features have a cosine of 0\.\d+ .* choose fp8: false"):
        _place(_with(tiny, fp8=True))
    monkeypatch.setattr(placing, "LEAST_SIMILARITY", 0.9)
    placed = _place(_with(tiny, fp8=True))
    dtypes = {parameter.dtype for parameter in placed["video"].parameters()}
    assert torch.float8_e4m3fn in dtypes


def test_a_similarity_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="nan"):
        require_similar("video", float("nan"))


@pytest.mark.parametrize(("setting", "count"), [("auto", 0), ("never", 0), ("blocks", 3)])
def test_blocks_are_compiled_where_the_setting_says_so(tiny: TrainingRecipe, setting: str, count: int) -> None:
    teacher = build_teacher("video", tiny.teachers["video"], tiny)
    engine = tiny.engine.model_copy(update={"compile": setting})
    assert accelerate(teacher, "video", tiny.teachers["video"], engine, ALONE.device) is teacher, "the CPU has no CUDA graphs"
    compiled = {block.backend for block in teacher.modules() if isinstance(block, Block)}
    assert sum(block.backend is not None for block in teacher.modules() if isinstance(block, Block)) == count
    assert len(compiled) == 1, "one graph for all"


def test_a_graph_is_kept_only_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_worth_it(10.0, 9.0) and not is_worth_it(10.0, 9.9) and not is_worth_it(10.0, float("nan"))
    module, clip = torch.nn.Linear(4, 4).requires_grad_(False), torch.ones(2, 4)
    times = iter([10.0, 20.0])
    monkeypatch.setattr(graphed, "_milliseconds", lambda *_: next(times))
    monkeypatch.setattr(GraphedForward, "_record", lambda self, inputs: setattr(self, "graph", object()))
    forward = GraphedForward(module, "teacher")
    assert forward(clip).equal(module(clip)) and forward.graph is None, "a replay took longer"
    assert forward(clip).equal(module(clip)), "and is not tried again"


def test_what_cannot_be_recorded_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nlong trace")

    module, clip = torch.nn.Linear(4, 4).requires_grad_(False), torch.ones(2, 4)
    caplog.set_level("INFO", "mvd_ds")  # a command that ran in this process before may have quietened it
    monkeypatch.setattr(graphed, "_milliseconds", lambda *_: 10.0)
    monkeypatch.setattr(GraphedForward, "_record", fail)
    assert GraphedForward(module, "teacher video")(clip).equal(module(clip))
    assert "teacher video: no CUDA graph: operation not permitted when stream is capturing" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replayed_forward_equals_the_usual_one(tiny: TrainingRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "is_worth_it", lambda *_: True)
    device = torch.device("cuda")
    teacher = build_teacher("video", tiny.teachers["video"], tiny).to(device)
    forward = GraphedForward(teacher, "video")
    clip = tiny.data.clip
    first, second = (torch.randn(2, 3, clip.frames, clip.size_px, clip.size_px, device=device) for _ in range(2))
    with torch.no_grad():
        one, two, other = forward(first), forward(second), forward(second[:1])
        assert forward.graph is not None
        for found, expected in ((one, first), (two, second), (other, second[:1])):
            torch.testing.assert_close(found, teacher(expected))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replay_reads_other_tokens_each_time(tiny: TrainingRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "is_worth_it", lambda *_: True)
    device = torch.device("cuda")
    teacher = build_teacher("video", tiny.teachers["video"], tiny).to(device)
    forward, clip = GraphedForward(teacher, "video"), tiny.data.clip
    frames = torch.randn(2, 3, clip.frames, clip.size_px, clip.size_px, device=device)
    for wanted in (torch.tensor([[0, 3], [2, 1]], device=device), torch.tensor([[1, 2], [0, 3]], device=device)):
        torch.testing.assert_close(forward(frames, wanted), pick(teacher(frames), wanted))
    assert forward.graph is not None
