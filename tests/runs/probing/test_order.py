"""The sense of time of encoders that have one, or none: what is told of clips played backwards and in random order."""

from __future__ import annotations

import numpy as np
import torch

from mvd_ds.config import ProbeRecipe, load_recipe
from mvd_ds.evaluation.features import Features
from mvd_ds.evaluation.probes import fit_probes, selection_split
from mvd_ds.runs.probing.clips import in_order
from mvd_ds.runs.probing.order import order_results, pair_labels, pairs, parted, stacked

CLIPS, KNOWN = 160, 100
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, (CLIPS, 1))


def recipe(*more: str) -> ProbeRecipe:
    found = load_recipe("quickstart_probe", ["order=[reversed]", "bootstrap_draws=100", "compare=[]", *more], "probe")
    assert isinstance(found, ProbeRecipe)
    return found


def features(sign: int) -> Features:
    """An encoder that sees the direction of time in one channel, and one that sees the label and nothing of the direction."""
    label = LABELS[:, 0] * 4.0 + RNG.normal(size=CLIPS)
    seeing = np.stack([label * sign, sign * 4 + RNG.normal(size=CLIPS)], axis=1).astype(np.float32)
    blind = np.stack([label, RNG.normal(size=CLIPS)], axis=1).astype(np.float32)
    return Features({"seeing": seeing, "blind": blind}, LABELS, np.ones(CLIPS, bool))


def part(found: Features, rows: slice) -> Features:
    return Features({name: values[rows] for name, values in found.features.items()}, found.labels[rows], found.ok[rows])


def test_a_sense_of_direction_is_found_and_none_is_not() -> None:
    plain, changed, settings = features(1), features(-1), recipe()
    known = [part(one, slice(KNOWN)) for one in (plain, changed)]
    unseen = [part(one, slice(KNOWN, None)) for one in (plain, changed)]
    both, apart = stacked(unseen), (pairs(*known), pairs(*unseen))
    fitted = fit_probes(known[0].features, known[0].labels, both.features, both.labels, settings)
    of_plain, of_changed = parted(fitted, 2)
    told = fit_probes(apart[0].features, apart[0].labels, apart[1].features, apart[1].labels, settings, rows_per_clip=2)
    found = order_results(settings, ("what",), {"reversed": told}, {"reversed": of_changed})
    assert found["seeing"]["reversed"]["told"]["top1"] > 0.99
    low, high = found["blind"]["reversed"]["told"]["interval"]
    assert low < 0.5 < high and found["blind"]["reversed"]["told"]["chance"] == 0.5
    alone = fit_probes(known[0].features, known[0].labels, unseen[0].features, unseen[0].labels, settings)
    assert of_plain["seeing"][0].top1 == alone["seeing"][0].top1 > 0.9
    assert found["seeing"]["reversed"]["labels"]["what"]["top1"] < 0.6 < found["blind"]["reversed"]["labels"]["what"]["top1"]


def test_a_share_that_chooses_holds_both_rows_of_a_clip_and_is_what_it_was_for_one() -> None:
    chosen, own, others = selection_split(20, 0.3, 3, rows_per_clip=2)
    assert chosen.reshape(-1, 2).all(1).sum() == 3 and chosen.sum() == 6 == len(own) and len(others) == 14
    assert pair_labels(3).ravel().tolist() == [0, 1, 0, 1, 0, 1]
    wanted = np.random.default_rng(3).permutation(20)
    assert np.array_equal(selection_split(20, 0.3, 3)[1], wanted[:6])


def test_clips_are_played_as_they_are_backwards_and_in_an_order_of_their_own() -> None:
    clips = torch.arange(6, dtype=torch.uint8).view(1, 1, 1, 1, 6, 1, 1).expand(3, 2, 2, 3, 6, 4, 4)
    found = in_order(clips, ["all", "reversed", "shuffled"], [0, 1, 2], 0)
    times = found[:, 1, 1, 0, :, 0, 0].tolist()
    assert times[0] == [0, 1, 2, 3, 4, 5] and times[1] == [5, 4, 3, 2, 1, 0]
    assert sorted(times[2]) == times[0] != times[2]
    again = in_order(clips[2:], ["shuffled"], [2], 0)
    assert torch.equal(again, found[2:]) and in_order(clips, ["all"] * 3, [0, 1, 2], 0) is clips
