"""Encoders side by side under one protocol, and accuracy over the blocks of each."""

from __future__ import annotations

from typing import NamedTuple

from mvd_ds.tools.report.encoders.depth_chart import DepthLine, depth_chart
from mvd_ds.tools.report.formatting import MISSING, PERCENT, percent, span
from mvd_ds.tools.report.run_records import EncoderFacts, ProbeResults
from mvd_ds.tools.report.sentences import label_names
from mvd_ds.tools.report.templating import Cell, ColourKey, Figure, Row, Table, cells, figure


class BlockResults(NamedTuple):
    """The accuracy of one head on one label after every block that was probed."""

    encoder: str
    head: str
    blocks: list[int]
    shares: list[float]
    spans: list[tuple[float, float]]

    @property
    def best(self) -> int:
        """Position of the block with the highest accuracy; of equals, the first."""
        return max(range(len(self.blocks)), key=lambda place: self.shares[place])


def encoder_table(results: ProbeResults) -> Table | None:
    """Return a row for every encoder with its size and its accuracy; None if there are not two.

    Accuracy is that after the last block that was probed, which is named where it is not the encoder's last.
    """
    if len(results.encoders) < 2:
        return None
    columns = [(label, head) for label in label_names(results) for head in _heads(results)]
    rows = []
    for name, facts in results.encoders.items():
        last = max(facts.blocks, key=lambda block: facts.blocks[block], default=name)
        shown = [_share(results, _named(last, head), label) for label, head in columns]
        size = cells(f"{facts.kind}, {facts.input}", f"{facts.parameters / 1e6:,.1f} M", f"{facts.width:,}", f"{facts.depth:,}")
        number = facts.blocks.get(last, facts.depth - 1)
        title = name if number == facts.depth - 1 else f"{name} after block {number}"
        rows.append(Row(title, [Cell(facts.network or "ours", facts.weights), *size, *shown]))
    head = ["encoder", "network", "input", "parameters", "width", "blocks"]
    return Table([*head, *(f"{label}, {head}" for label, head in columns)], rows, "measured")


def depth_figures(results: ProbeResults) -> list[Figure]:
    """Return accuracy over depth for every label and head, with the block that is best; none where one block was probed."""
    figures = []
    for label in label_names(results):
        for head in _heads(results):
            found = [part for name, facts in results.encoders.items() if (part := _of_blocks(results, name, facts, head, label))]
            if not found:
                continue
            lines = [DepthLine(part.blocks, part.shares, part.spans, f"series-{place % 6}") for place, part in enumerate(found)]
            chance = results.chance.get(label)
            key = ColourKey([(part.encoder, f"series-{place % 6}") for place, part in enumerate(found)])
            chart = depth_chart(lines, chance, f"top-1 on {label} (%)")
            drawn = figure(f"Label “{label}”, {head}", chart, " ".join(_sentence(part) for part in found))
            figures += [drawn._replace(key=key)] if drawn else []
    return figures


def swept(results: ProbeResults) -> set[str]:
    """Return the names of results that are points of a curve over depth."""
    blocks = {block for facts in results.encoders.values() if len(facts.blocks) > 1 for block in facts.blocks}
    return {name for name in results.probes if name.partition(":")[0] in blocks}


def _sentence(found: BlockResults) -> str:
    """Return which block to learn from; the held-out clips that measure it chose it, too."""
    best = found.best
    low = found.spans[best][0]
    near = [
        block for block, share in zip(found.blocks, found.shares, strict=True) if share >= low and block != found.blocks[best]
    ]
    within = f"; within its 95{PERCENT} interval: {', '.join(map(str, near))}" if near else ""
    number = found.blocks[best]
    share = f"{percent(found.shares[best])}, chosen on these very clips"
    return f"{found.encoder}: block {number} is best ({share}), target.blocks: [{number}]{within}."


def _of_blocks(results: ProbeResults, name: str, facts: EncoderFacts, head: str, label: str) -> BlockResults | None:
    ordered = sorted(facts.blocks.items(), key=lambda entry: entry[1])
    known = [(number, _named(block, head)) for block, number in ordered if label in results.probes.get(_named(block, head), {})]
    if len(known) < 2:
        return None
    shares = [results.probes[result][label] for _, result in known]
    spans = [
        results.intervals.get(result, {}).get(label, (share, share)) for (_, result), share in zip(known, shares, strict=True)
    ]
    return BlockResults(name, head, [number for number, _ in known], shares, spans)


def _heads(results: ProbeResults) -> list[str]:
    """Return the heads that networks have results of."""
    known = {block for facts in results.encoders.values() for block in facts.blocks}
    named = [name.partition(":") for name in results.probes]
    return list(dict.fromkeys(head or "linear" for block, _, head in named if block in known))


def _named(block: str, head: str) -> str:
    return block if head == "linear" else f"{block}:{head}"


def _share(results: ProbeResults, name: str, label: str) -> Cell:
    share = results.probes.get(name, {}).get(label)
    ends = results.intervals.get(name, {}).get(label)
    return Cell(percent(share) if share is not None else MISSING, span(*ends) if ends else "")
