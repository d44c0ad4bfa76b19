"""Sentences about the numbers that claim no more than the numbers do."""

from __future__ import annotations

from statistics import median

from mvd_ds.files import counted
from mvd_ds.tools.report.accuracy import few_videos
from mvd_ds.tools.report.formatting import PERCENT, join_words, percent, points, ratio, signed, times
from mvd_ds.tools.report.run_records import Difference, ProbeResults, RunRecord

SLOW_DATA = 0.3
"""Share of the time spent waiting for data from which on a sentence says so."""
COLLAPSED_RANK = 2.0
"""Effective rank below which features have collapsed."""


def probe_sentences(results: ProbeResults) -> list[str]:
    """Return one sentence for every comparison; without any, one on the best models."""
    if not any(results.probes.values()):
        return ["None of these runs measured accuracy: no probe, evaluation or validation on labelled clips is among them."]
    compared = [_comparison(name, differences) for name, differences in results.comparisons.items() if differences]
    return compared or [_best(results)]


def _comparison(name: str, differences: dict[str, Difference]) -> str:
    left, _, right = name.partition(" minus ")
    right = right or "its reference"
    by_verdict: dict[str, list[str]] = {"beats": [], "falls behind": []}
    undecided = []
    for label, found in differences.items():
        verdict = found.verdict()
        if verdict is None:
            undecided.append(
                f"cannot be told apart on “{label}”: the difference is {signed(found.difference)} points, and its "
                f"95{PERCENT} interval, {signed(found.low)} to {signed(found.high)}, includes zero"
            )
            continue
        low, high = sorted((abs(found.low), abs(found.high)))
        interval = f"95{PERCENT} interval {points(low)} to {points(high)}"
        by_verdict[verdict].append(f"by {points(abs(found.difference))} points on “{label}” ({interval})")
    clauses = [f"{verdict} {right} {' and '.join(parts)}" for verdict, parts in by_verdict.items() if parts]
    decided = [f"{left} {clauses[0]}", *(f"it {clause}" for clause in clauses[1:])] if clauses else []
    who = "the two" if decided else f"{left} and {right}"
    text = "; ".join([*decided, *(f"{'they' if place else who} {clause}" for place, clause in enumerate(undecided))])
    clips = next(iter(differences.values())).clips
    return f"On {counted(clips, 'held-out clip')} {text}."


def _best(results: ProbeResults) -> str:
    parts = []
    for label in label_names(results):
        shares = {model: values[label] for model, values in results.probes.items() if label in values}
        name = max(shares, key=lambda model: shares[model])
        chance = f", guessing {100 * results.chance[label]:.3g}{PERCENT}" if label in results.chance else ""
        parts.append(f"on “{label}” the most accurate model is {name} ({percent(shares[name])}{chance})")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. No two models were compared clip by clip, so small differences mean nothing."


def attention(run: RunRecord) -> list[str]:
    """Return the sentences about one run that a reader should not miss."""
    found = [
        f"{run.name}: its figures are left out, because {changed} has changed since they were measured; start it again."
        for changed in run.changed_inputs
    ]
    found += [warning] if (warning := few_videos(run)) else []
    status = run.status
    if status.state != "finished":
        where = f" at step {status.step:,} of {status.last_step:,}" if status.last_step else ""
        found.append(f"{run.name} is {status.state}{where}, not finished.")
    if status.replaced_videos:
        total = sum(status.replaced_videos.values())
        found.append(
            f"{run.name}: {counted(len(status.replaced_videos), 'video')} could not be read and "
            f"{'was' if len(status.replaced_videos) == 1 else 'were'} replaced {times(total)}."
        )
    skipped = last(run, "optim/skipped_steps")
    if skipped:
        found.append(f"{run.name}: {counted(int(skipped), 'optimizer step')} had a gradient that was not finite and did nothing.")
    for name in sorted(run.curves):
        relative = last(run, name)
        if name.startswith("loss_relative/") and relative is not None and relative >= 1:
            target = name.partition("/")[2]
            found.append(f"{run.name}: its last loss on {target} is {ratio(relative)} times that of predicting the mean target.")
    rank = last(run, "student/effective_rank")
    if rank is not None and rank < COLLAPSED_RANK:
        found.append(f"{run.name}: the features' effective rank is {rank:.1f}; they have collapsed.")
    waited = middle(run, "perf/data_wait_share")
    if waited is not None and waited > SLOW_DATA:
        found.append(f"{run.name} waited for data {percent(waited, 0)} of the time; more data.workers would make it faster.")
    if run.unreadable_lines:
        found.append(f"{run.name}: {counted(run.unreadable_lines, 'line')} of metrics.jsonl could not be read and left out.")
    return found


def training_sentence(run: RunRecord) -> str | None:
    """Return how far the loss of a training run fell; None without a loss."""
    total = run.curves.get("loss/total")
    if total is None:
        return None
    first, final = total.values[0], total.values[-1]
    relative = {name.partition("/")[2]: last(run, name) for name in run.curves if name.startswith("loss_relative/")}
    shares = join_words([f"{ratio(value)} on {target}" for target, value in relative.items() if value is not None])
    beside = f"; relative to predicting the mean target it is {shares}" if shares else ""
    verb = "fell" if final < first else "went"
    steps = f"between steps {total.steps[0]:,} and {total.steps[-1]:,}"
    return f"{run.name}: the loss {verb} from {first:.3g} to {final:.3g} {steps}{beside}."


def neighbour_sentence(run: RunRecord) -> str | None:
    """Return how often nearest neighbours among a run's features had the right class; None if that was not measured."""
    found = run.neighbours()
    if not found:
        return None
    step = max(curve.steps[-1] for curve in found.values())
    first, *others = [f"the right “{label}” for {percent(curve.values[-1])}" for label, curve in found.items()]
    text = join_words([f"{first} of the clips", *others])
    return f"{run.name}: nearest neighbours of its features give {text} after step {step:,}."


def label_names(results: ProbeResults) -> list[str]:
    """Return the probed labels, in the order of the manifest."""
    probed = dict.fromkeys(label for values in results.probes.values() for label in values)
    return [label for label in results.labels if label in probed] + [label for label in probed if label not in results.labels]


def last(run: RunRecord, name: str) -> float | None:
    """Return the last value of a metric; None without it."""
    return run.curves[name].values[-1] if name in run.curves else None


def middle(run: RunRecord, name: str) -> float | None:
    """Return the median of a metric without its first value, which holds the start; None without the metric."""
    if name not in run.curves:
        return None
    values = run.curves[name].values
    return median(values[1:] or values)
