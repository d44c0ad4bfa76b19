"""Run folders read back: broken ones get one clear line, cut ones are read as far as they go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.tools.report.report import write_report
from mvd_ds.tools.report.run_records import Curve, read_curves, read_runs

Build = Callable[..., Path]


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": NaN, "b": 1.0}\n{"step": 2, "a": Infinity, "b": "x"}\n{"step": 3, "a": 2}\n')
    curves, unreadable = read_curves(path)
    assert curves == {"a": Curve([3], [2.0]), "b": Curve([1], [1.0])}
    assert unreadable == 0


def test_a_cut_last_line_is_no_fault_and_a_broken_one_before_it_is(tmp_path: Path, training_run: Build) -> None:
    path = training_run(tmp_path / "student") / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-40])
    curves, unreadable = read_curves(path)
    assert (curves["loss/total"].steps, unreadable) == ([10, 20], 0)
    path.write_text('{"step": 5, "lo\n[1]\n' + whole)
    curves, unreadable = read_curves(path)
    assert (curves["loss/total"].steps, unreadable) == ([10, 20, 30], 2)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("recipe.yaml", "a: [1", r"recipe\.yaml: cannot be read"),
        ("recipe.yaml", "- 1", r"recipe\.yaml: a recipe is a mapping"),
        ("status.json", "{", r"status\.json: is not JSON"),
        ("status.json", '{"seconds": "long"}', r"status\.json: seconds: "),
        ("probes.json", "[]", r"probes\.json: "),
        ("probes.json", '{"probes": {"student": {"what": NaN}}}', r"probes\.json: probes\.student\.what: "),
    ],
)
def test_a_broken_file_gets_one_line_and_no_report(tmp_path: Path, probe_run: Build, name: str, text: str, line: str) -> None:
    run = probe_run(tmp_path / "probe")
    (run / name).write_text(text)
    with pytest.raises(ConfigError, match=line) as raised:
        write_report([run], tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_is_refused(tmp_path: Path, training_run: Build) -> None:
    run = training_run(tmp_path / "student")
    (tmp_path / "videos").mkdir()
    with pytest.raises(ConfigError, match=r"nowhere: no such run folder"):
        read_runs([run, tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match=r"videos: is no run folder, it has no recipe\.yaml"):
        read_runs([run, tmp_path / "videos"])
    with pytest.raises(ConfigError, match="at least one run folder"):
        read_runs([])


def test_runs_keep_their_order_and_get_names_that_differ(tmp_path: Path, training_run: Build) -> None:
    runs = [training_run(tmp_path / place) for place in ("b/student", "a/student", "c/teacher")]
    assert [run.name for run in read_runs(runs[::2])] == ["student", "teacher"]
    assert [run.name for run in read_runs([*runs, runs[0]])] == ["b/student", "a/student", "c/teacher"]


def test_a_run_that_has_not_saved_yet_is_started(tmp_path: Path, training_run: Build) -> None:
    folder = training_run(tmp_path / "student")
    (folder / "status.json").unlink()
    (folder / "metrics.jsonl").unlink()
    (run,) = read_runs([folder])
    assert (run.status.state, run.curves, run.objective) == ("started", {}, "distillation")
    assert run.loss_names() == {"image": "smooth L1", "video": "smooth L1"}
    write_report([folder], tmp_path / "out")
    assert "student is started, not finished." in (tmp_path / "out" / "report.html").read_text()
