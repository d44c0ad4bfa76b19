"""Figures of probes: a plane takes two models, a bar takes one."""

from __future__ import annotations

from types import SimpleNamespace

from mvd_ds.tools.report.probe_figures import _colours, probe_figures
from mvd_ds.tools.report.run_records import ProbeResults


def results(*models: str) -> ProbeResults:
    spans = {"what": (0.4, 0.6), "how": (0.1, 0.3)}
    shares = {"what": 0.5, "how": 0.2}
    return ProbeResults(
        probes=dict.fromkeys(models, shares), intervals=dict.fromkeys(models, spans), labels={"what": 10, "how": 8}
    )


def test_a_plane_of_a_single_dot_is_left_out() -> None:
    assert [figure.title for figure in probe_figures([], results("a"))] == ["Label “what”", "Label “how”"]
    assert [figure.title for figure in probe_figures([], results("a", "b"))][-1] == "Labels “what” and “how”"


def test_other_heads_and_blocks_of_a_trained_model_are_no_baselines() -> None:
    run = SimpleNamespace(name="run", probed_models=lambda: {"a": {}, "u": {"untrained": True}})
    found = _colours([run], results("a", "a:attentive", "run/a@3:knn", "a@3", "u:attentive", "pixels"))  # type: ignore[list-item]
    assert list(found.values()) == ["calm"] * 4 + ["faint"] * 2
