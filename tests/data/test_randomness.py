"""Keyed random numbers."""

from __future__ import annotations

import numpy as np

from mvd_ds.data.randomness import keyed_generator


def test_same_keys_same_numbers_other_keys_other_numbers() -> None:
    keys = [
        (0, "mask", 0, 0),
        (0, "mask", 0, 1),
        (0, "mask", 1, 0),
        (1, "mask", 0, 0),
        (0, "view", 0, 0),
        (0, "mask", 0),
        (0, "mask"),
    ]
    draws = [keyed_generator(*key).random(4) for key in keys]
    again = [keyed_generator(*key).random(4) for key in reversed(keys)][::-1]
    assert np.array_equal(draws, again)
    assert len({draw.tobytes() for draw in draws}) == len(keys)


def test_large_keys_do_not_collide() -> None:
    keys = [(1, 1 << 32), (1 << 32, 1), (1, 0), (0, 1), (1 + (1 << 32), 0), (0, 1 << 32), (1 << 40, 0)]
    assert len({keyed_generator(2**63, "mask", *key).integers(2**63) for key in keys}) == len(keys)


def test_numbers_are_a_contract() -> None:
    """These values are in every checkpoint's future: a change would make resumed runs differ."""
    assert keyed_generator(7, "order", 3).permutation(8).tolist() == [1, 0, 5, 2, 6, 7, 3, 4]
    assert keyed_generator(7, "mask", 3, 5).integers(1000, size=4).tolist() == [298, 888, 126, 881]
