"""Names of tensors in a file against names here: one list of rules serves reading, writing and gradients."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

#: Patterns that ``{...}`` in a name stands for.
PLACEHOLDERS = {"i": r"0|[1-9][0-9]{0,3}", "w": "weight|bias", "rest": r".+"}
#: Settings of blocks that published files have, but for layouts that say otherwise.
PLAIN: dict[str, Any] = {"norm": "layernorm", "mlp": "gelu", "registers": 0, "layer_scale": None, "qk_norm": "none"}
#: Row of a packed (3D, ...) tensor, for layouts that keep queries, keys and values apart.
PARTS = ("query", "key", "value")


class Rule(NamedTuple):
    """One name of a file and where it goes.

    Attributes:
        theirs: name in the file; ``{i}`` is a number, ``{w}`` is ``weight`` or ``bias``, ``{rest}`` is anything.
        ours: name in the state dict of a model here, with the same placeholders.
        form: whole: the same tensor; frame: a (D, C, p, p) image patch embedding, (D, C, 1, p, p) here; query, key,
            value: a third of a packed tensor; added: a term of it, beside the whole.
    """

    theirs: str
    ours: str
    form: Literal["whole", "frame", "query", "key", "value", "added"] = "whole"


class Ignored(NamedTuple):
    """A name of a file that has no place here, and why.

    Attributes:
        theirs: name, with placeholders; ``*`` is any rest.
        reason: shown in the table.
    """

    theirs: str
    reason: str


class FrozenTable(NamedTuple):
    """A position table that a file may hold. It is compared with the formula; one that differs is read as a learned one.

    Attributes:
        theirs: name in the file, of a (1, [1 +] N, D) tensor.
        kind: ``sincos2d``, ``sincos3d`` or ``sinusoid1d``.
        has_cls: its first row belongs to the class token, and is zero.
        is_written: other readers of the layout expect it in the file.
        of: ``encoder``, or the name of the decoder that it serves: it has its width.
    """

    theirs: str
    kind: str
    has_cls: bool = False
    is_written: bool = True
    of: str = "encoder"

    @property
    def prefix(self) -> str:
        """Beginning of the names of the part that it serves."""
        return "encoder." if self.of == "encoder" else f"decoders.{self.of}."


@dataclass(frozen=True)
class Layout:
    """The names of tensors in a family of files, and what such files imply.

    Attributes:
        name: what ``--to`` and ``format=`` take.
        title: name in words.
        model: what such a file holds.
        rules: every name that is loaded. Where two have one target, the first is written.
        settings: encoder settings that the layout implies.
        decoder: decoder settings that it implies.
        tables: fixed position tables of it.
        ignored: names without a place here.
        heads: heads by (width, depth) where they are not those of most published networks.
    """

    name: str
    title: str
    model: Literal["predictor", "encoder", "classifier"]
    rules: tuple[Rule, ...]
    settings: Mapping[str, Any]
    tables: tuple[FrozenTable, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    decoder: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[tuple[int, int], int] = field(default_factory=dict)

    @property
    def implied(self) -> dict[str, Any]:
        """Encoder settings that the layout implies, also by having no place for anything else; none of a layout of ours."""
        return {**PLAIN, **self.settings} if self.settings else {}

    def target(self, name: str) -> tuple[str, str] | None:
        """Return (our name, form) of a tensor of the file, or None."""
        for rule in self.rules:
            match = pattern(rule.theirs).fullmatch(name)
            if match:
                return _fill(rule.ours, match.groupdict()), rule.form
        return None

    def table(self, name: str) -> FrozenTable | None:
        """Return the position table of that name, or None."""
        return next((table for table in self.tables if table.theirs == name), None)

    def reason_to_ignore(self, name: str) -> str | None:
        """Return the reason why a tensor of the file has no place here, or None."""
        return next((entry.reason for entry in self.ignored if pattern(entry.theirs).fullmatch(name)), None)

    def sources(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield (name in the file, form) for every tensor that one of ours is written as."""
        forms = set()
        for rule in self.rules:
            match = pattern(rule.ours).fullmatch(name)
            if match and rule.form not in forms:
                forms.add(rule.form)
                yield _fill(rule.theirs, match.groupdict()), rule.form

    def rename(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return our tensors (weights or gradients) under names and shapes of the file, and those without a name there.

        Position tables are not among them.
        """
        renamed, homeless = {}, []
        for name, tensor in tensors.items():
            sources = list(self.sources(name))
            if not sources:
                homeless.append(name)
            for theirs, form in sources:
                renamed[theirs] = take_form(tensor, form)
        return renamed, homeless


def take_form(tensor: Tensor, form: str) -> Tensor:
    """Return our tensor in the form of a file."""
    if form == "frame":
        return tensor.squeeze(2)
    if form in PARTS:
        return tensor.chunk(3)[PARTS.index(form)].contiguous()
    return tensor


def join_forms(pieces: Mapping[str, Tensor]) -> Tensor:
    """Return our tensor from the forms that a file has of it.

    Raises:
        ValueError: if parts are missing, or do not fit each other.
    """
    if "added" in pieces and "whole" in pieces:
        return pieces["whole"] + pieces["added"].view_as(pieces["whole"])
    if "whole" in pieces:
        return pieces["whole"]
    if "frame" in pieces:
        return pieces["frame"].unsqueeze(2)
    absent = [part for part in PARTS if part not in pieces]
    if absent:
        raise ValueError(f"without its {' and '.join(absent)}")
    shapes = {pieces[part].shape for part in PARTS}
    if len(shapes) > 1:
        raise ValueError(f"query, key and value differ in shape: {[tuple(pieces[part].shape) for part in PARTS]}")
    return torch.cat([pieces[part] for part in PARTS])


def block_rules(theirs: str, ours: str, qkv_bias: Literal["query_value", "full"]) -> tuple[Rule, ...]:
    """Return the rules of transformer blocks that are named as timm, MAE, VideoMAE and MVD name them.

    Args:
        theirs: what stands before the number of the block in the file.
        ours: what stands before it here.
        qkv_bias: biases of the attention: ``q_bias`` and ``v_bias``, or one packed bias.
    """
    biases = {
        "query_value": (("attn.q_bias", "attention.qkv.q_bias"), ("attn.v_bias", "attention.qkv.v_bias")),
        "full": (("attn.qkv.bias", "attention.qkv.bias"),),
    }
    pairs = (
        ("norm1.{w}", "norm_attention.{w}"),
        ("attn.qkv.weight", "attention.qkv.weight"),
        *biases[qkv_bias],
        ("attn.proj.{w}", "attention.projection.{w}"),
        ("norm2.{w}", "norm_mlp.{w}"),
        ("mlp.fc1.{w}", "mlp.expand.{w}"),
        ("mlp.fc2.{w}", "mlp.contract.{w}"),
    )
    return tuple(Rule(f"{theirs}.{{i}}.{a}", f"{ours}.{{i}}.{b}") for a, b in pairs)


def hidden_ratio(hidden: int, width: int) -> float:
    """Return ``mlp_ratio`` of an MLP, such that ``int(width * ratio)`` is its hidden width again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


@functools.cache
def pattern(template: str) -> re.Pattern[str]:
    """Return the regular expression of a name with placeholders; ``*`` is any rest."""
    escaped = re.escape(template).replace(r"\*", ".*")
    for name, text in PLACEHOLDERS.items():
        escaped = escaped.replace(rf"\{{{name}\}}", f"(?P<{name}>{text})")
    return re.compile(escaped)


def _fill(template: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", value)
    return template
