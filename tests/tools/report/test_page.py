"""The page in a browser: at 390 and at 1280 px nothing crosses an edge and no number is broken; what was measured comes first."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from mvd_ds.runs.pictures import as_png, write_pictures
from mvd_ds.tools.report.report import write_report

Build = Callable[..., Path]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
MEASURE = r"""<script>addEventListener("load", () => {
  const text = node => node.nodeType == Node.TEXT_NODE ? node.data : "";
  const lines = node => {
    const range = document.createRange(); range.selectNodeContents(node); return range.getClientRects().length };
  const cut = e => getComputedStyle(e).overflowX != "visible" && e.scrollWidth > e.clientWidth;
  const wide = [...document.querySelectorAll("body *")].filter(
    e => !e.closest("svg, details:not([open])") && (e.getBoundingClientRect().right > innerWidth || cut(e)));
  const numbers = [...document.querySelectorAll("td > span, td small")].flatMap(e => [...e.childNodes])
    .filter(node => /^[\d.,:\u2013\u2212+ \u00a0%]+$/.test(text(node)));
  const told = {width: innerWidth, wide: wide.map(e => e.outerHTML.slice(0, 80)), count: numbers.length,
    broken: numbers.filter(node => lines(node) > 1).map(text)};
  parent.document.body.dataset.told = JSON.stringify(told)})</script>"""


def with_metrics(run: Path, **values: list[float]) -> Path:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name, column in values.items():
        for line, value in zip(lines, column, strict=True):
            line[name.replace("__", "/")] = value
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def every_section(folder: Path, training_run: Build, probe_run: Build) -> list[Path]:
    """Runs whose report has every table: a student with pictures and memory, a fine-tuned run, an evaluation, a probe."""
    student = with_metrics(training_run(folder / "a_student_of_a_rather_long_name"), memory__step_weights_gib=[0.0031] * 3)
    clips = [{"file": "a/folder/of/a/rather/long/name/" * 3 + "cat.mp4", "classes": {"what": "cat"}}]
    write_pictures(student / "pictures" / "step-00000030", {"clip 0": as_png(np.zeros((40, 600, 3), np.uint8))}, {"clips": clips})
    tuned = with_metrics(training_run(folder / "tuned"), val__top1=[0.25, 0.5, 0.75], memory__step_weights_gib=[0.25] * 3)
    (tuned / "recipe.yaml").write_text(yaml.safe_dump({"objective": "classification"}))
    (tuned / "validation.json").write_text(json.dumps({"step": 30, "top1": 0.75, "top5": 0.9, "samples": 1200}))
    test = folder / "test"
    test.mkdir()
    (test / "recipe.yaml").write_text("objective: evaluate\n")
    found = {"weights": f"{folder}/{'deep/' * 9}model", "manifest": f"{folder}/val.txt", "top1": 0.5, "top5": 0.9, "samples": 60}
    (test / "evaluation.json").write_text(json.dumps(found))
    return [student, tuned, test, probe_run(folder / "probe")]


def test_headings_are_plain_english(tmp_path: Path, training_run: Build, probe_run: Build) -> None:
    write_report(every_section(tmp_path / "runs", training_run, probe_run), tmp_path / "out")
    assert re.findall(r"<h2>(.*?)</h2>", (tmp_path / "out" / "report.html").read_text()) == [
        "Names on this page", "Accuracy of probes on frozen features", "Accuracy on held-out videos", "Runs", "Pictures",
        "Training losses", "Learning rate, gradients and features", "Speed and memory", "Memory by part", "All settings",
        "Where these results come from",
    ]  # fmt: skip


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_and_no_number_is_broken(tmp_path: Path, training_run: Build, probe_run: Build, width: int) -> None:
    write_report(every_section(tmp_path / "runs", training_run, probe_run), tmp_path / "out")
    page = re.sub(r"<meta http-equiv[^>]*>", "", (tmp_path / "out" / "report.html").read_text())
    # No window of a browser without a screen is narrower than 500 px; a frame is.
    content = html.escape(page.replace("</head>", f"{MEASURE}</head>"))
    (tmp_path / "page.html").write_text(f'<iframe style="width: {width}px; border: 0" srcdoc="{content}"></iframe>')
    options = f"--headless --no-sandbox --disable-gpu --user-data-dir={tmp_path}/browser --dump-dom"
    command = [str(BROWSER), *options.split(), f"file://{tmp_path}/page.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'data-told="([^"]*)"', shown)
    assert found is not None
    told = json.loads(html.unescape(found[1]))
    assert (told["width"], told["wide"], told["broken"]) == (width, [], []) and told["count"] > 40


def test_nearest_neighbours_are_an_accuracy(tmp_path: Path, training_run: Build) -> None:
    run = with_metrics(training_run(tmp_path / "student"), probe__what_top1=[0.2, 0.4, 0.5], probe__how_top1=[0.1, 0.1, 0.25])
    write_report([run], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text().replace("\u00a0", " ")
    said = (
        "student: nearest neighbours of its features give the right “what” for 50.0 % of the clips and the right “how” for 25.0 %"
    )
    assert f'<p class="lead">{said} after step 30.</p>' in page and "None of these runs measured accuracy" not in page
    heading, _, rest = page.partition("Accuracy of nearest neighbours while training</h2>")
    assert heading and "Label “what”" in rest and "Learning rate, gradients and features</h2>" in rest


def test_seconds_of_students_that_learn_together_count_once(tmp_path: Path, training_run: Build) -> None:
    for name, seconds in (("small", 60.0), ("base", 90.0), ("apart", 8.0)):
        run = training_run(tmp_path / "run" / name)
        values = json.loads((run / "status.json").read_text()) | {"seconds": seconds}
        (run / "status.json").write_text(json.dumps(values | ({} if name == "apart" else {"together": ".."})))
    write_report([tmp_path / "run" / name for name in ("small", "base", "apart")], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert ">98.0<" in page and ">158.0<" not in page and "their seconds count once" in " ".join(page.split())
