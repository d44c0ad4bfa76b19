"""What the page shows beside curves: pictures, what sets runs apart, where they come from; and the page on paper."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mvd_ds.config import ConfigError
from mvd_ds.runs.pictures import as_png, write_pictures
from mvd_ds.tools.report import picture_section
from mvd_ds.tools.report.report import write_report

Build = Callable[..., Path]
ATTEMPT = {
    "began": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.11.9", "commit": "abc123", "torch": "2.15"},
    "machine": {"processor": "Model <X>"},
    "ranks": [{"device": "cpu", "host": "a"}, {"device": "cpu", "host": "b"}],
}


def with_pictures(run: Path, step: int, level: int) -> np.ndarray:
    image = np.full((40, 60, 3), level, np.uint8)
    similarity = {"student": [0.9, 0.7]}
    write_pictures(run / "pictures" / f"step-{step:08}", {"clip 0": as_png(image)}, {"step": step, "similarity": similarity})
    return image


def report(runs: list[Path], output: Path) -> tuple[dict[str, Any], str]:
    write_report(runs, output)
    return json.loads((output / "report.json").read_text()), (output / "report.html").read_text()


def test_the_newest_pictures_are_in_the_page_itself(tmp_path: Path, training_run: Build) -> None:
    run = training_run(tmp_path / "student")
    with_pictures(run, 9, 10)
    newest = with_pictures(run, 10, 200)
    figures, page = report([run], tmp_path / "out")
    (content,) = re.findall(r'<img alt="clip 0" title="clip 0" src="data:image/png;base64,([^"]+)">', page)
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))) == newest).all()
    assert "step 10" in page and "Similarity across frames, by layer" in page and "img-src data:" in page
    assert figures["pictures"]["student"]["similarity"] == {"student": [0.9, 0.7]}
    assert not re.search(r'(?:src|href)="(?!data:|#)', page), "nothing is fetched"


def test_more_clips_are_there_for_whom_asks(tmp_path: Path, training_run: Build) -> None:
    run = training_run(tmp_path / "student")
    images = {f"clip {place}": as_png(np.full((4, 4, 3), place, np.uint8)) for place in range(5)}
    write_pictures(run / "pictures" / "step-00000010", images, {"step": 10, "similarity": {}})
    _, page = report([run], tmp_path / "out")
    opened, _, folded = page.partition("3 more clips</summary>")
    assert [re.findall(r'alt="clip (\d)"', part) for part in (opened, folded)] == [["0", "1"], ["2", "3", "4"]]


def test_class_and_file_stand_beside_a_picture(tmp_path: Path, training_run: Build) -> None:
    image = as_png(np.full((4, 4, 3), 9, np.uint8))
    clips = [{"file": f"a/{name}.mp4", "classes": {"what": name, "how": "<slow>"}} for name in ("cat", "dog")]
    for run, names in (("video", ["clip 0", "clip 1"]), ("image", ["images"])):
        folder = training_run(tmp_path / run) / "pictures" / "step-00000010"
        write_pictures(folder, dict.fromkeys([*names, "similarity across frames"], image), {"step": 10, "clips": clips})
    _, page = report([tmp_path / "video"], tmp_path / "out")
    pictures = re.findall(r'<img alt="([^"]+)".*?</figure>', page, re.DOTALL)
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", page)
    assert pictures == ["clip 0", "clip 1", "similarity across frames"]
    assert captions == [f"what “{name}”, how “&lt;slow&gt;”, a/{name}.mp4" for name in ("cat", "dog")]
    _, page = report([tmp_path / "image"], tmp_path / "out")
    assert "Left to right: what “cat”, how “&lt;slow&gt;”, a/cat.mp4; what “dog”" in page


def test_a_page_has_a_limit(tmp_path: Path, training_run: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training_run(tmp_path / "student")
    with_pictures(run, 10, 200)
    monkeypatch.setattr(picture_section, "MAX_BYTES", 10)
    _, page = report([run], tmp_path / "out")
    assert "<img" not in page and "clip 0: left out of this page for its size" in page


def test_settings_that_differ_and_origins(tmp_path: Path, training_run: Build) -> None:
    runs = [training_run(tmp_path / name) for name in ("a", "b")]
    for run, rate in zip(runs, (0.1, 0.2), strict=True):
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        recipe |= {"optimizer": {"base_lr": rate, "eps": 1e-8}, "run": {"output": str(run)}}
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (run / "attempts").mkdir()
        (run / "attempts" / "attempt-001.json").write_text(json.dumps(ATTEMPT))
    figures, page = report(runs, tmp_path / "out")
    assert figures["recipe_differences"] == {"distillation": {"optimizer.base_lr": {"a": 0.1, "b": 0.2}}}
    assert "Settings that differ between the runs" in page and "optimizer.eps" not in page.partition("all settings")[0]
    assert "abc123" in page and "2 x cpu (Model &lt;X&gt;) on 2 hosts" in page
    assert figures["provenance"]["a"]["versions"]["commit"] == "abc123"


def test_runs_alike_and_without_extras_have_no_empty_sections(tmp_path: Path, training_run: Build) -> None:
    figures, page = report([training_run(tmp_path / "a"), training_run(tmp_path / "b")], tmp_path / "out")
    assert figures["recipe_differences"] == figures["pictures"] == figures["provenance"] == {}
    assert "Pictures" not in page and "Settings that differ" not in page


def test_paper_needs_a_browser(tmp_path: Path, training_run: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="--pdf: it takes chromium or google-chrome"):
        write_report([training_run(tmp_path / "a")], tmp_path / "out", pdf=True)
    assert not (tmp_path / "out").exists()


def test_paper_is_what_the_browser_prints(tmp_path: Path, training_run: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = tmp_path / "chromium"
    browser.write_text('#!/bin/sh\nfor a; do case "$a" in --print-to-pdf=*) echo "%PDF" > "${a#*=}";; esac; done\n')
    browser.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(browser))
    run = training_run(tmp_path / "a")
    write_report([run], tmp_path / "out", pdf=True)
    assert (tmp_path / "out" / "report.pdf").read_text() == "%PDF\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json", "report.pdf"]
    browser.write_text("#!/bin/sh\necho no display >&2; exit 3\n")
    with pytest.raises(ConfigError, match="ended with 3: no display"):
        write_report([run], tmp_path / "out", pdf=True)
