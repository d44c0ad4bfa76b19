"""Protocols hold what their experiments need, and results keep to their protocol."""

from __future__ import annotations

import json
import re

import pytest

from experiments.experiment import table
from experiments.protocol import HERE, Protocol, read_protocol, result_names
from mvd_ds.config import ProbeRecipe, dump, load_recipe
from mvd_ds.config.probing import result_name

NAMES = sorted(path.stem for path in HERE.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_recipes_that_load_and_comparisons_name_them(name: str) -> None:
    protocol = read_protocol(name)
    places = {name: f"/{name}" for name in [*protocol.weights, *protocol.shared, *protocol.caches, "videos"]}
    for run in protocol.shared.values():
        load_recipe(run.recipe, [setting.format(**places) for setting in run.settings])
    for row in (*protocol.caches.values(), *protocol.rows.values()):
        load_recipe(row.recipe, [setting.format(**places) for setting in [*protocol.settings, *row.settings]])
    for probing in protocol.more_probes:
        load_recipe(protocol.probe, ["compare=[]", *protocol.probe_settings, *probing.settings])
    assert all(row in read_protocol(theirs).rows for row, theirs in protocol.borrowed.items())
    named = {side.partition(":")[0] for pair in protocol.compare for side in pair}
    assert named <= result_names(protocol) and len(protocol.seeds) >= 3
    models = {name: {"weights": name} for name in result_names(protocol) - {"pixels"}}
    recipe = dump(load_recipe(protocol.probe, [*protocol.probe_settings, "compare=[]"])) | {"models": models, "compare": []}
    assert ProbeRecipe.model_validate(recipe).task == ("dense" if protocol.measure == "dense" else "labels")
    if protocol.finetuning is not None:
        load_recipe(protocol.finetuning.recipe, protocol.finetuning.settings)
        assert set(protocol.finetuning.shared) <= protocol.shared.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if (HERE / f"{name}.json").exists()])
def test_a_kept_result_has_every_row_and_seed_of_its_protocol(name: str) -> None:
    protocol, result = read_protocol(name), json.loads((HERE / f"{name}.json").read_text())
    # Trainings that were measured apart, on clips or classes of their own, stand side by side.
    probes, comparisons = ({re.sub(r"seed-\d+/probe/", "", key) for key in result[part]} for part in ("probes", "comparisons"))
    assert probes >= result_names(protocol) - protocol.probed.keys()
    assert result["seeds"] == protocol.seeds
    assert comparisons == _compared(protocol)
    means = sum(len(halves["models"]) for halves in result.get("base_to_new", {}).values())
    assert table(result).count("\n") == 1 + len(result["probes"]) + len(result["comparisons"]) + means


def _compared(protocol: Protocol) -> set[str]:
    """Return the names of the differences of a protocol's probes of labels; dense ones are kept apart."""
    heads: set[str | None] = {None}
    for probing in protocol.more_probes:
        recipe = dump(load_recipe(protocol.probe, ["compare=[]", *protocol.probe_settings, *probing.settings]))
        heads |= {recipe["heads"][0]} if recipe["task"] == "labels" else set()
    return {
        " minus ".join(side if head is None else result_name(side, head) for side in pair)
        for pair in protocol.compare
        for head in heads
    }
