"""This module reads arrays beside videos out of the tokens of frozen encoders (``probe`` with ``task: dense``)."""

from __future__ import annotations

from collections.abc import Mapping

from mvd_ds.config import ProbeRecipe
from mvd_ds.files import write_json, write_text
from mvd_ds.runs.dense.fitting import fit_readouts
from mvd_ds.runs.dense.measuring import measure_readouts
from mvd_ds.runs.dense.pictures import write_pictures
from mvd_ds.runs.dense.results import PRODUCT, SUMS, all_sums, predictions_text, results, say_results, write_sums
from mvd_ds.runs.dense.sources import find_targets, joined_targets, sources_of
from mvd_ds.runs.probing.encoders import open_encoders
from mvd_ds.runs.probing.head_states import HeadStates
from mvd_ds.runs.probing.probe_results import PREDICTIONS
from mvd_ds.runs.probing.probe_splits import splits_of
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.run_folder import RunFolder, Status


def probe_dense(recipe: ProbeRecipe, folder: RunFolder, contents: Mapping[str, str], cluster: Cluster) -> None:
    """Fit and measure the read-outs of a recipe, and write what was found into its folder.

    Args:
        recipe: the probe run.
        folder: its folder, opened.
        contents: digests of its inputs.
        cluster: the processes.

    Raises:
        ConfigError: if models, videos and arrays do not fit each other; on every rank.
    """
    status = Status(folder, last_step=1) if cluster.is_main else None
    with cluster.together():
        train, held_out = splits_of(recipe)
    with cluster.together():
        encoders = open_encoders(recipe, cluster.device)
        sources = sources_of(recipe, encoders, cluster.device)
        own = find_targets(recipe, train, slice(cluster.rank, None, cluster.world))
    told = cluster.gather(own)
    with cluster.together():
        targets = joined_targets(told, recipe.data.manifest)
    faults: list[str] = []
    states = HeadStates(folder.path / "heads", recipe, contents, cluster)
    readouts = fit_readouts(recipe, sources, targets, train, faults, cluster, states.of("dense"))
    measured = measure_readouts(recipe, sources, targets, readouts, held_out, faults, cluster)
    with cluster.together():
        if status is not None:
            measured = all_sums(recipe, sources, readouts, measured)
            found = results(recipe, sources, encoders, targets, readouts, measured, len(train[1]))
            write_pictures(folder.pictures / "step-00000001", measured.drawn, sources, targets)
            write_sums(folder.path / SUMS, measured)
            write_text(folder.path / PREDICTIONS, predictions_text(recipe, targets, held_out, measured))
            write_json(folder.path / PRODUCT, found)
            states.drop()
            status.write("finished", 1, replaced_videos=dict.fromkeys(faults, 1))
            say_results(found)
