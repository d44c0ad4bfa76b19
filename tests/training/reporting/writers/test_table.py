"""Writers by name: the table, what is missing in one line, and services that are not there, as fake modules."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mvd_ds.config import ConfigError
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.reporting.metrics import MetricsWriter
from mvd_ds.training.reporting.writers.json_lines import JsonLines
from mvd_ds.training.reporting.writers.table import WRITERS, require_writers
from mvd_ds.training.run_folder import RunFolder

CPU = Cluster(0, 1, torch.device("cpu"))


@pytest.fixture
def calls() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[str, Any]]) -> ModuleType:
    module = ModuleType("wandb")
    run = SimpleNamespace(
        define_metric=lambda *names, **options: None,
        log=lambda values: calls.append(("log", values)),
        config=SimpleNamespace(update=lambda settings, **_: calls.append(("config", settings))),
        finish=lambda: calls.append(("finish", None)),
    )
    members = {"init": lambda **options: (calls.append(("init", options)), run)[1]}
    members |= {
        "Settings": lambda **options: options,
        "Image": lambda picture: picture.size,
        "Histogram": lambda values=None, np_histogram=None: np_histogram or len(values),
    }
    for name, member in members.items():
        setattr(module, name, member)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[str, Any]]) -> ModuleType:
    module = ModuleType("mlflow")

    def start_run(run_id: str | None, run_name: str) -> Any:
        calls.append(("start", run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "run-1"))

    members = {
        "start_run": start_run,
        "log_metrics": lambda values, step: calls.append((f"metrics {step}", values)),
        "log_params": lambda values: calls.append(("params", values)),
        "log_image": lambda picture, artifact_file: calls.append((artifact_file, picture.size)),
        "end_run": lambda: calls.append(("end", None)),
    }
    for name, member in members.items():
        setattr(module, name, member)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2)).save(stream, format="PNG")
    return stream.getvalue()


def _write_all(folder: Path, *names: str, first_step: int = 0) -> Iterator[MetricsWriter]:
    writer = MetricsWriter(RunFolder(folder), CPU, first_step, "objective: x", names)
    yield writer
    writer.describe(("video",), {"optimizer.base_lr": 0.1, "text": "x" * 600})
    writer.write(first_step + 1, {"loss/total": 1.5})
    writer.show(first_step + 1, {"clip": _png()}, {"norms": torch.ones(5)})
    writer.profile(first_step + 1, "blocks", [1.0, 2.0])
    writer.close()


def _run(folder: Path, *names: str, first_step: int = 0) -> None:
    list(_write_all(folder, *names, first_step=first_step))


def test_a_run_goes_to_weights_and_biases(tmp_path: Path, wandb: ModuleType, calls: list[tuple[str, Any]]) -> None:
    _run(tmp_path, "wandb")
    kinds = [kind for kind, _ in calls]
    assert kinds == ["init", "config", "log", "log", "log", "finish"]
    assert calls[2][1] == {"step": 1, "loss/total": 1.5} and calls[3][1] == {"step": 1, "clip": (3, 2), "norms": 5}
    assert calls[4][1]["blocks"] == ([1.0, 2.0], [0, 1, 2])
    _run(tmp_path, "wandb", first_step=7)
    assert calls[6][1]["id"] == calls[0][1]["id"] and calls[6][1]["resume"] == "allow", "a resume continues the run"
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 8]
    assert not (tmp_path / "tensorboard").exists()


def test_a_run_goes_to_mlflow(tmp_path: Path, mlflow: ModuleType, calls: list[tuple[str, Any]]) -> None:
    _run(tmp_path, "tensorboard", "mlflow")
    assert [kind for kind, _ in calls] == ["start", "params", "metrics 1", "clip/step-00000001.png", "end"]
    assert len(calls[1][1]["text"]) == 500 and (tmp_path / "tensorboard").exists()
    _run(tmp_path, "mlflow", first_step=1)
    assert calls[5] == ("start", "run-1") and calls[6][0] == "metrics 2", "parameters cannot be changed"


def test_tensorboard_shows_a_step_that_is_done_again_once(tmp_path: Path) -> None:
    """A run that was killed before its first save begins anew."""
    for number, first_step in enumerate((0, 1, 2, 1, 0, 1)):
        _run(tmp_path, "tensorboard", first_step=first_step)
        # Files are read in the order of their names: seconds, then a counter without leading zeros. Runs are seconds apart.
        (written,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*.*")
        written.rename(written.with_name(f"events.out.tfevents.{number}"))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss/total")] == [(1, 1.5), (2, 1.5)]
    assert [event.step for event in board.Images("more_clip")] == [1, 2]


def test_a_service_that_fails_is_dropped_with_one_line(
    tmp_path: Path, wandb: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(values: Any) -> None:
        raise ConnectionError("no route\nto host")

    writing = _write_all(tmp_path, "wandb")
    writer = next(writing)
    writer.writers["wandb"].run.log = refuse  # type: ignore[attr-defined]
    list(writing)
    assert capsys.readouterr().err == "mvd_ds: run.writers wandb: no route to host; the run goes on without it\n"
    assert (tmp_path / "metrics.jsonl").read_text().count("loss/total") == 1


def test_a_service_that_cannot_begin_is_one_line(tmp_path: Path, wandb: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("no API key configured")

    wandb.init = init  # type: ignore[attr-defined]
    closed = []
    monkeypatch.setattr(JsonLines, "close", lambda writer: closed.append(writer))
    with pytest.raises(ConfigError, match=r"^run\.writers wandb: cannot begin: no API key configured$"):
        MetricsWriter(RunFolder(tmp_path), CPU, 0, "", ["wandb"])
    assert len(closed) == 1, "those that had begun are ended"


def test_what_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    require_writers(["tensorboard", "jsonl"])
    with pytest.raises(ConfigError, match=r"^run\.writers 'tensorbord': .*did you mean 'tensorboard'\?$"):
        require_writers(["tensorbord"])
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^run\.writers mlflow: the package mlflow is not installed; pip install"):
        require_writers(["mlflow"])


def test_every_row_is_an_implementation_of_the_interface() -> None:
    for row in WRITERS.values():
        assert all(hasattr(row.start, name) for name in ("write", "describe", "show", "profile", "close"))
