"""Encoders side by side, and the block that a curve over depth tells to learn from."""

from __future__ import annotations

from typing import Any

from mvd_ds.tools.report.encoders.encoder_table import depth_figures, encoder_table, swept
from mvd_ds.tools.report.probe_figures import probe_figures
from mvd_ds.tools.report.run_records import ProbeResults

SHARES = {"a@0": 0.3, "a@1": 0.72, "a@2": 0.7, "b@0": 0.2, "b@1": 0.25, "b@2": 0.5}


def facts(name: str, network: str) -> dict[str, Any]:
    size = {"kind": "video", "parameters": 86_400_000, "width": 768, "input": "16 x 224 px", "depth": 3}
    return size | {"network": network, "weights": "w", "blocks": {f"{name}@{block}": block for block in range(3)}}


def results(**more: Any) -> ProbeResults:
    values = {
        "probes": {name: {"how": share} for name, share in SHARES.items()},
        "intervals": {name: {"how": (share - 0.05, share + 0.05)} for name, share in SHARES.items()},
        "chance": {"how": 0.1},
        "labels": {"how": 8},
        "encoders": {"a": facts("a", ""), "b": facts("b", "timm:x")},
    }
    return ProbeResults.model_validate(values | more)


def test_a_row_for_every_encoder_has_its_last_block_with_an_interval() -> None:
    table = encoder_table(results())
    assert table is not None and table.head[-1] == "how, linear"
    assert [row.name for row in table.rows] == ["a", "b"]
    assert [cell.text for cell in table.rows[1].cells][:4] == ["timm:x", "video, 16 x 224 px", "86.4 M", "768"]
    assert [row.cells[-1].text[:2] for row in table.rows] == ["70", "50"]
    assert "65" in table.rows[0].cells[-1].note and "75" in table.rows[0].cells[-1].note
    assert encoder_table(results(encoders={"a": facts("a", "")})) is None, "one is no comparison"
    deeper = encoder_table(results(encoders={"a": facts("a", "") | {"depth": 12}, "b": facts("b", "")}))
    assert deeper is not None and [row.name for row in deeper.rows] == ["a after block 2", "b"]


def test_the_curve_over_depth_names_the_best_block_and_those_within_its_interval() -> None:
    (drawn,) = depth_figures(results())
    assert "linear" in drawn.title and drawn.key is not None and [name for name, _ in drawn.key.entries] == ["a", "b"]
    assert "a: block 1 is best" in drawn.caption and "target.blocks: [1]; within its 95" in drawn.caption
    assert "chosen on these very clips" in drawn.caption
    assert "interval: 2." in drawn.caption and "b: block 2 is best" in drawn.caption
    assert "<svg" in drawn.charts[0][1]


def test_points_of_a_curve_are_no_bars() -> None:
    assert swept(results()) == set(SHARES)
    assert probe_figures([], results()) == []
    single = {"a": {**facts("a", ""), "blocks": {"a@2": 2}}}
    assert not swept(results(encoders=single)) and not depth_figures(results(encoders=single))


def test_results_of_several_runs_keep_their_blocks() -> None:
    renamed = results().renamed("run/")
    assert renamed.encoders["run/a"].blocks == {f"run/a@{block}": block for block in range(3)}
    assert swept(renamed) == {f"run/{name}" for name in SHARES}
