"""The captions of the sample set: what moves and how, in phrasings for training and in others that training never shows."""

from __future__ import annotations

from typing import Any

from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.synthetic.motion import HOW
from mvd_ds.data.synthetic.rendering import WHAT

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Words of the digits, in the order of ``rendering.WHAT``."""
MOTIONS = (
    "circles clockwise",
    "circles counterclockwise",
    "grows fast and shrinks slowly",
    "grows slowly and shrinks fast",
    "moves out fast and back slowly",
    "moves out slowly and back fast",
    "shakes, then rests",
    "rests, then shakes",
)
"""Verbs of the motions, in the order of ``motion.HOW``."""
GRAMMAR = {
    "train": (
        "a {what} {how}",
        "the digit {what} {how}",
        "in this video a {what} {how}",
        "the {what} {how} in front of a pattern",
        "here the number {what} {how}",
        "{what}: it {how}",
        "a {what} is shown",
        "something {how}",
    ),
    "val": (
        "we watch how a {what} {how}",
        "look, the {what} {how} again",
        "one sees the figure {what}, which {how}",
    ),
}
"""Phrasings of each split; none is in both."""
WORDS = {
    "what": ("we watch a {}", "look, the {} again", "one sees the figure {}"),
    "how": ("we watch how it {}", "look, it {} again", "one sees a figure, which {}"),
}
"""Phrasings of the classes of one label for zero-shot, from the held-out grammar."""
CAPTIONS = 3
"""Captions of a clip."""

assert len(MOTIONS) == len(HOW) and len(NUMERALS) == len(WHAT)


def captions_of(seed: int, split: str, index: int, what: int, how: int) -> list[str]:
    """Return the captions of clip ``index`` of a split: three phrasings of it, drawn by its key."""
    grammar = GRAMMAR[split]
    chosen = keyed_generator(seed, f"captions {split}", index).permutation(len(grammar))[:CAPTIONS]
    return [grammar[number].format(what=NUMERALS[what], how=MOTIONS[how]) for number in chosen.tolist()]


def words_of(label: str) -> dict[str, Any]:
    """Return the words of the classes of ``what`` or ``how``, by their names, and the held-out templates they stand in."""
    names, words = (WHAT, NUMERALS) if label == "what" else (HOW, MOTIONS)
    return {"classes": dict(zip(names, words, strict=True)), "templates": list(WORDS[label])}
