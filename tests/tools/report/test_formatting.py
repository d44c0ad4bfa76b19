"""Numbers stand as a reader wants them, and intervals of shares stay honest on few samples."""

from __future__ import annotations

import pytest

from mvd_ds.tools.report.formatting import few_clips, join_words, percent, signed, wilson_interval


def test_numbers_have_their_signs_and_words() -> None:
    assert percent(0.5) == "50.0\N{NO-BREAK SPACE}%" and percent(None) == "\N{EN DASH}"
    assert signed(-0.031) == "\N{MINUS SIGN}3.1" and signed(0.031) == "+3.1"
    assert join_words(["a", "b", "c"]) == "a, b and c" and join_words([]) == ""


@pytest.mark.parametrize(
    ("share", "samples", "low", "high"), [(0.5, 50, 0.366, 0.634), (1.0, 6, 0.610, 1.0), (0.0, 6, 0.0, 0.390), (0.5, 0, 0.0, 1.0)]
)
def test_the_interval_of_a_share_is_wilsons(share: float, samples: int, low: float, high: float) -> None:
    assert wilson_interval(share, samples) == pytest.approx((low, high), abs=1e-3)


def test_few_clips_are_named_with_what_one_weighs() -> None:
    assert few_clips(1, "held-out clip").startswith("Only 1 held-out clip: each moves a share by 100.0 points.")
    assert few_clips(0, "held-out clip") == "No held-out clip, so nothing is known of the accuracy."
