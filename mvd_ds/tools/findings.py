"""What the numbers say, in sentences that claim no more than they do."""

from __future__ import annotations

from statistics import median

from mvd_ds.tools.quantities import count, percent, points, signed, times
from mvd_ds.tools.records import Difference, ProbeResults, RunRecord

#: Share of the time spent waiting for data that is worth a word.
SLOW_DATA = 0.3
#: Effective rank below which features have collapsed.
COLLAPSED_RANK = 2.0


def probe_sentences(results: ProbeResults) -> list[str]:
    """One sentence for every comparison; without any, one on who is best."""
    if not any(results.probes.values()):
        return ["No probe on labelled clips is among these runs: the page says how they trained, not what they learned."]
    compared = [_comparison(name, differences) for name, differences in results.comparisons.items() if differences]
    return compared or [_best(results)]


def _comparison(name: str, differences: dict[str, Difference]) -> str:
    left, minus, right = name.partition(" minus ")
    parts: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for label, found in differences.items():
        verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "open"
        parts[verdict].append(f"“{label}” by {points(abs(found.difference))} points ({_interval(found, verdict)})")
    sentences = []
    if not minus:
        left, right = name, "zero"
    for verdict, verb in (("better", "is ahead of"), ("worse", "falls behind")):
        if parts[verdict]:
            sentences.append(f"{left} {verb} {right} on {' and on '.join(parts[verdict])}")
    for label, found in differences.items():
        if found.low <= 0 <= found.high:
            interval = f"from {signed(found.low)} to {signed(found.high)}"
            sentences.append(
                f"on “{label}” {left} and {right} cannot be told apart: the difference is {signed(found.difference)} points, "
                f"and its 95 % interval {interval} includes zero"
            )
    some = next(iter(differences.values()))
    seeds = f", {some.seeds} probe seeds" if some.seeds > 1 else ""
    text = "; ".join(sentences)
    return f"{text[0].upper() if text.startswith('on ') else text[0]}{text[1:]}. Held-out clips: {some.clips:,}{seeds}."


def _interval(found: Difference, verdict: str) -> str:
    low, high = (found.low, found.high) if verdict != "worse" else (-found.high, -found.low)
    return f"95 % interval {points(low)} to {points(high)}"


def _best(results: ProbeResults) -> str:
    parts = []
    for label in label_names(results):
        shares = {model: values[label] for model, values in results.probes.items() if label in values}
        name = max(shares, key=lambda model: shares[model])
        chance = f", where chance is {100 * results.chance[label]:.3g} %" if label in results.chance else ""
        parts.append(f"on “{label}” {name} knows most ({percent(shares[name])}{chance})")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. No two models were compared clip by clip, so small differences mean nothing."


def attention(run: RunRecord) -> list[str]:
    """What a reader should not miss about one run."""
    found = []
    status = run.status
    if status.state != "finished":
        where = f" at step {status.step:,} of {status.last_step:,}" if status.last_step else ""
        found.append(f"{run.name} is {status.state}{where}, not finished.")
    if status.replaced_videos:
        total = sum(status.replaced_videos.values())
        found.append(
            f"{run.name}: {count(len(status.replaced_videos), 'video')} could not be read and were replaced {times(total)}."
        )
    skipped = last(run, "optim/skipped_steps")
    if skipped:
        found.append(f"{run.name}: {count(int(skipped), 'optimizer step')} had a gradient that was not finite and did nothing.")
    for name in sorted(run.curves):
        relative = last(run, name)
        if name.startswith("loss_relative/") and relative is not None and relative >= 1:
            target = name.partition("/")[2]
            found.append(
                f"{run.name}: its loss on {target} is {relative:.2f} of predicting the mean target; it learned nothing there."
            )
    rank = last(run, "student/effective_rank")
    if rank is not None and rank < COLLAPSED_RANK:
        found.append(f"{run.name}: the features' effective rank is {rank:.1f}; they have collapsed.")
    waited = middle(run, "perf/data_wait_share")
    if waited is not None and waited > SLOW_DATA:
        found.append(f"{run.name} waited for data {100 * waited:.0f} % of the time; more data.workers would make it faster.")
    if run.unreadable_lines:
        found.append(f"{run.name}: {count(run.unreadable_lines, 'line')} of metrics.jsonl could not be read and left out.")
    return found


def label_names(results: ProbeResults) -> list[str]:
    """The probed labels, in the order of the manifest."""
    probed = dict.fromkeys(label for values in results.probes.values() for label in values)
    return [label for label in results.labels if label in probed] + [label for label in probed if label not in results.labels]


def last(run: RunRecord, name: str) -> float | None:
    """The last value of a metric, None without it."""
    return run.curves[name].values[-1] if name in run.curves else None


def middle(run: RunRecord, name: str) -> float | None:
    """The median of a metric, None without it; the first value, which holds the start, does not count if there are more."""
    if name not in run.curves:
        return None
    values = run.curves[name].values
    return median(values[1:] or values)
