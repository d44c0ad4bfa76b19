"""The names of classes as rows of vectors for a frozen text tower, with learned vectors among those of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.config import ConfigError
from mvd_ds.files import one_line
from mvd_ds.models.text.captioned import CaptionedEncoder, Encode
from mvd_ds.models.text.tower import Between, TextTower

PREFIX = 1
"""Tokens before those of a text, its beginning, where a tower has one."""


class ClassNames(NamedTuple):
    """The classes of a label in words."""

    classes: tuple[str, ...]
    """Name of each class."""
    words: tuple[str, ...]
    """The word of each that prompts stand beside."""
    texts: tuple[tuple[str, ...], ...]
    """Texts of each without prompts: its words in templates."""


class PromptedTexts(nn.Module):
    """Rows ``beginning, vectors, name, full stop, end`` of all classes, of which the vectors are learned.

    Rows of a SigLIP have no beginning, are filled up to their whole length and read at their last place: vectors stand in front,
    and as many of the tokens that fill a row up are left out. Source: SigLIP (arXiv 2303.15343), whose texts are 64 tokens long.

    Nothing in it is learned or saved: it holds the vectors of the tokens of names, and refers to the frozen towers.

    Args:
        towers: the towers, frozen.
        encode: makes rows of tokens of texts.
        names: the classes.
        count: number of learned vectors in a row.
        middle: half of them stand behind the name.

    Raises:
        ConfigError: if the tower takes no text that long.
    """

    embedded: Tensor
    numbers: Tensor
    order: Tensor

    def __init__(self, towers: CaptionedEncoder, encode: Encode, names: ClassNames, count: int, middle: bool = False) -> None:
        super().__init__()
        self._towers = (towers,)  # a tuple: they stay what they are, outside of this module
        tower, place = towers.language.text, towers.language.scale.values.device
        rows, bare = (encode([f" {word}{stop}" for word in names.words]).to(place) for stop in (".", ""))
        self.first = first_place(tower)
        ends, behind_name = ends_of(tower, encode, rows), ends_of(tower, encode, bare)
        length = int(ends.max()) + 1 + count
        if length > rows.shape[1]:
            longest = names.words[int(ends.argmax())]
            raise ConfigError(
                f"prompts: {count} learned vectors and the name '{one_line(longest, 60)}' are {length} tokens, and the text "
                f"tower takes {rows.shape[1]}; give fewer, or shorter words"
            )
        self.count = count
        ahead = count - count // 2 if middle else count
        learned = torch.arange(rows.shape[1], rows.shape[1] + count, device=place)
        kept = torch.arange(rows.shape[1], device=place)
        length = rows.shape[1] if tower.shape.pooled == "last" else length
        order = [
            torch.cat((kept[: self.first], learned[:ahead], kept[self.first : end], learned[ahead:], kept[end:]))[:length]
            for end in behind_name.tolist()
        ]
        self.register_buffer("order", torch.stack(order), persistent=False)
        # What stands for learned vectors among the numbers is looked at by nobody.
        padded = torch.cat((rows, rows.new_zeros(len(rows), count)), dim=1)
        self.register_buffer("numbers", padded.gather(1, self.order), persistent=False)
        with torch.no_grad():
            self.register_buffer("embedded", tower.embed(rows), persistent=False)

    def forward(self, vectors: Tensor, classes: Sequence[int] | None = None, between: Between | None = None) -> Tensor:
        """Return unit vectors (C, E), fp32, of some classes, or (B, C, E) for vectors of B clips.

        Args:
            vectors: learned ones: (M, D) for all classes, (classes, M, D) one for each of all classes, (B, 1, M, D) for clips.
            classes: numbers of the classes (None: all).
            between: see ``TextTower``.
        """
        chosen = torch.arange(len(self.order), device=self.order.device) if classes is None else self._numbers(classes)
        if vectors.ndim == 3:
            vectors = vectors[chosen]
        names, order = self.embedded[chosen], self.order[chosen]
        shape = (*vectors.shape[:-3], len(chosen))
        names, vectors = names.expand(*shape, -1, -1), vectors.to(names.dtype).expand(*shape, -1, -1)
        both = torch.cat((names, vectors), dim=-2)
        index = order[..., None].expand(*shape, -1, both.shape[-1])
        rows = torch.gather(both, -2, index)
        numbers = self.numbers[chosen].expand(*shape, -1)
        found = self._encoded(numbers.reshape(-1, numbers.shape[-1]), rows.reshape(-1, *rows.shape[-2:]), between)
        return found.reshape(*shape, -1)

    def _numbers(self, classes: Sequence[int]) -> Tensor:
        return torch.tensor(list(classes), device=self.order.device)

    def _encoded(self, numbers: Tensor, rows: Tensor, between: Between | None) -> Tensor:
        (towers,) = self._towers
        language = towers.language
        found = language.text_projection(language.text(numbers, towers.encoder.blocks, rows, between))
        return functional.normalize(found.float(), dim=-1)


def first_place(tower: TextTower) -> int:
    """Return the place of the first token of a text in its row."""
    return 0 if tower.shape.pooled == "last" else PREFIX


def ends_of(tower: TextTower, encode: Encode, rows: Tensor) -> Tensor:
    """Return the place behind the tokens of each text, int64 (n,): that of its end, or of what fills its row up.

    Raises:
        ConfigError: if rows are filled up before texts.
    """
    if tower.shape.pooled != "last":
        return tower.ends(rows)
    empty = encode([""])[0].to(rows)  # the end of a text, and mostly what fills a row up
    if bool((rows[:, 0] == empty.mode().values).any()):
        raise ConfigError("prompts: the tokenizer of this text tower fills rows up before texts; set its padding_side to right")
    return (~torch.isin(rows, empty) * torch.arange(1, rows.shape[1] + 1, device=rows.device)).amax(dim=1)


@torch.no_grad()
def start_vectors(towers: CaptionedEncoder, encode: Encode, text: str) -> Tensor:
    """Return the vectors (M, D) of the tokens of a text.

    Raises:
        ConfigError: if it has none.
    """
    tower, place = towers.language.text, towers.language.scale.values.device
    row = encode([text]).to(place)
    found = tower.embed(row)[0, first_place(tower) : int(ends_of(tower, encode, row))]
    if not len(found):
        raise ConfigError("prompt.start: is an empty text; leave it out for vectors that are drawn")
    return found.clone()


@torch.no_grad()
def plain_vectors(towers: CaptionedEncoder, encode: Encode, names: ClassNames) -> Tensor:
    """Return a unit vector for each class, (C, E), of its texts without prompts."""
    return towers.word_vectors(names.classes, names.texts, encode).vectors


def replaced(prompts: Sequence[Tensor], first: int) -> Between:
    """Return a function that puts prompts in front of each block, in the place of those of the block before.

    Args:
        prompts: (M, D) for each of the first blocks; those of block 0 are there already.
        first: place of the first prompt among the tokens.
    """

    def between(number: int, tokens: Tensor) -> Tensor:
        if not 0 < number < len(prompts):
            return tokens
        fresh = prompts[number].to(tokens.dtype).expand(len(tokens), -1, -1)
        return torch.cat((tokens[:, :first], fresh, tokens[:, first + fresh.shape[1] :]), dim=1)

    return between
