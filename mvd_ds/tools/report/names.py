"""Explanations of the names that a report uses: models, variants of them, and labels."""

from __future__ import annotations

from typing import Any

from mvd_ds.data.synthetic.motion import HOW
from mvd_ds.data.synthetic.rendering import WHAT
from mvd_ds.tools.report.run_records import ProbeResults, RunRecord
from mvd_ds.tools.report.templating import Definition

_SAMPLE_LABELS = {
    ("what", len(WHAT)): "the digit or thing that a clip of the sample set shows",
    ("how", len(HOW)): "the way it moves",
}
"""Meaning of the labels that ``synthesize`` writes, by name and number of classes."""
_FRAMES = {
    "first": "It sees only the first frame of each clip, repeated: it knows nothing of motion.",
    "shuffled": "It sees the frames of each clip in random order: it knows nothing of the direction of motion.",
}


def names_of(runs: list[RunRecord], results: ProbeResults) -> list[Definition]:
    """Return an explanation for every label and model of the probes."""
    found = [Definition(f"“{label}”", _label(label, classes)) for label, classes in results.labels.items()]
    models: dict[str, str] = {}
    for run in runs:
        for name, settings in run.probed_models().items():
            models |= {shown: _model(settings) for shown in (name, f"{run.name}/{name}")}
        pixels = "No network: a classifier on the pixels themselves."
        models |= dict.fromkeys(("pixels", f"{run.name}/pixels"), pixels)
    for name in results.probes:
        shown, _, head = name.partition(":")
        network, _, block = shown.rpartition("@") if shown not in models else (shown, "", "")
        text = models.get(name) or models.get(network)
        text = f"{text} Tokens after its block {block}, from 0." if text and block else text
        if text:
            found.append(Definition(name, text + (f" Its tokens are read by a trained “{head}” head." if head else "")))
    if any(name in results.chance for name in results.labels):
        found.append(Definition("chance", "The accuracy of always naming the most frequent class, without looking at the clip."))
    return found


def _label(name: str, classes: int) -> str:
    meaning = _SAMPLE_LABELS.get((name, classes), "a label of the manifest")
    return f"{meaning[0].upper()}{meaning[1:]}, one of {classes:,} classes."


def _model(settings: dict[str, Any]) -> str:
    weights = settings.get("weights", "")
    frames = _FRAMES.get(str(settings.get("frames", "all")), "")
    if settings.get("network"):
        text = f"The frozen network {settings['network']} ({weights})."
    elif settings.get("untrained"):
        text = f"The network of {weights} with its random initial weights, never trained: the baseline that training has to beat."
    else:
        text = f"The frozen network {weights}."
    every = settings.get("every_frames", 1)
    sparse = f" It sees every {every}th frame." if isinstance(every, int) and every > 3 else ""
    sparse = {2: " It sees every second frame.", 3: " It sees every third frame."}.get(every, sparse)
    return f"{text}{sparse} {frames}".strip()
