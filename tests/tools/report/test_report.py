"""The report: what it says follows from the files, it needs nothing but itself, and broken folders get one clear line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import yaml

from mvd_ds.config import ConfigError
from mvd_ds.tools.report.report import write_report

HOSTILE = "<script>alert('$x$ & \"y\"')</script>"
VOID = {"meta", "br", "link"}
Build = Callable[..., Path]


def report(runs: list[Path], output: Path) -> tuple[dict[str, Any], str]:
    write_report(runs, output)
    page = (output / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in output.iterdir()) == ["report.html", "report.json"]
    return json.loads((output / "report.json").read_text(encoding="utf-8")), page


class Page(HTMLParser):
    """Fails on tags that do not match; collects text, tags, links and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for key, value in attrs if key in ("href", "src", "xlink:href")]
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def test_json_holds_what_the_folders_hold(tmp_path: Path, training_run: Build, probe_run: Build) -> None:
    runs = [training_run(tmp_path / "student", replaced_videos={"a.mp4: cut": 2}), probe_run(tmp_path / "probe")]
    found, _ = report(runs, tmp_path / "out")
    assert found["probes"]["student"] == {"what": 0.54, "how": 0.48}
    assert found["chance"] == {"what": 0.1, "how": 0.125}
    assert found["comparisons"]["student minus untrained"]["how"]["low"] == 0.05
    assert found["losses"]["student"]["first"] == {
        "loss/total": 3.0, "loss/image": 1.0, "loss/video": 2.0, "loss_relative/image": 0.4, "loss_relative/video": 0.7,
    }  # fmt: skip
    assert found["losses"]["student"]["last"]["loss/total"] == 1.0
    assert found["seconds"] == {"student": 61.5, "probe": 12.0}
    expected = {"objective": "distillation", "state": "finished", "step": 30, "last_step": 30, "attempts": 1}
    assert expected.items() <= found["runs"]["student"].items()
    assert found["runs"]["student"]["replaced_videos"] == {"a.mp4: cut": 2}
    assert {"python", "torch", "deepspeed", "mvd_ds"} <= set(found["versions"])
    assert found["machine"]["cores"] >= 1
    assert found["curves"]["student"]["loss/image"]["steps"] == [10, 20, 30]


def test_the_page_needs_nothing_but_itself(tmp_path: Path, training_run: Build, probe_run: Build) -> None:
    runs = [training_run(tmp_path / "student"), probe_run(tmp_path / "probe")]
    before = dict(matplotlib.rcParams)
    _, page = report(runs, tmp_path / "out")
    assert dict(matplotlib.rcParams) == before
    parsed = Page(page)
    assert parsed.seen.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert all(link.startswith("#") for link in parsed.links)
    assert not re.search(r"@import|@font-face|url\((?!#)", page)
    assert len(page) < 1_000_000
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link[1:] for link in parsed.links} | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(parsed.ids)
    assert not re.search(r"#00fe[0-9a-f]{2}", page), "a colour of the drawing was not replaced"


def test_every_figure_is_there_and_every_axis_has_its_name(tmp_path: Path, training_run: Build, probe_run: Build) -> None:
    runs = [training_run(tmp_path / "student"), probe_run(tmp_path / "probe")]
    _, page = report(runs, tmp_path / "out")
    words = Page(page).words
    for axis in (
        "held-out top-1 (%)", "difference in top-1 (percentage points)", "loss (smooth L1)", "loss / loss of the mean",
        "variance (squared units)", "learning rate (no unit)", "L2 norm (no unit)", "dimensions", "clips per second",
        "share of time (%)", "GiB",
    ):  # fmt: skip
        assert axis in words, axis
    assert page.count("<svg") == 2 + 1 + 3 + 3 + 3
    assert words.count("optimizer step") == 9


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ((0.08, 0.05, 0.11), "student beats untrained by 23.0 points on “what” (95 % interval 20.0 to 26.0) and by 8.0 points"),
        (
            (0.01, -0.01, 0.03),
            "the two cannot be told apart on “how”: the difference is +1.0 points, and its 95 % interval, \N{MINUS SIGN}1.0",
        ),
        ((0.0, 0.0, 0.03), "the two cannot be told apart on “how”"),
        ((-0.04, -0.06, -0.02), "it falls behind untrained by 4.0 points on “how” (95 % interval 2.0 to 6.0)"),
    ],
)
def test_the_first_sentence_claims_what_the_interval_allows(
    tmp_path: Path, probe_run: Build, how: tuple[float, float, float], said: str
) -> None:
    _, page = report([probe_run(tmp_path / "probe", how)], tmp_path / "out")
    words = Page(page).words.replace("\u00a0", " ")
    assert "On 2,000 held-out clips student beats untrained" in words
    assert said in words
    assert ("Hollow: the interval includes zero" in words) == ("told apart" in said)


def test_text_from_files_never_becomes_markup(tmp_path: Path, training_run: Build, probe_run: Build) -> None:
    student = training_run(tmp_path / "a <b> & c", command=HOSTILE, replaced_videos={f"{HOSTILE}: {HOSTILE}": 1}, state=HOSTILE)
    (student / "recipe.yaml").write_text(yaml.safe_dump({"objective": HOSTILE, "teachers": {"image": {"loss": HOSTILE}}}))
    with open(student / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 40, f"loss/{HOSTILE}": 1.0, f"loss_relative/{HOSTILE}": 2.0}) + "\n")
    probe = probe_run(tmp_path / "probe", student=HOSTILE, pooling=HOSTILE, clips={HOSTILE: 1})
    _, page = report([student, probe], tmp_path / "out")
    parsed = Page(page)
    assert parsed.seen.isdisjoint({"script", "b"})
    assert parsed.text.count(HOSTILE) >= 10


def test_runs_without_probes_say_how_they_trained(tmp_path: Path, training_run: Build, probe_run: Build) -> None:
    student = training_run(tmp_path / "student", state="stopped", step=20)
    unlabelled = probe_run(tmp_path / "probe", probes={}, chance={}, details={}, comparisons={}, labels={})
    found, page = report([student, unlabelled], tmp_path / "out")
    words = Page(page).words
    assert found["probes"] == {}
    assert "None of these runs measured accuracy" in words
    assert (
        "the loss fell from 3 to 1 between steps 10 and 30; relative to predicting the mean target it is 0.40 on image" in words
    )
    assert "student is stopped at step 20 of 30, not finished." in words
    assert "top-1" not in words


def test_what_a_reader_should_not_miss_is_said(tmp_path: Path, training_run: Build) -> None:
    run = training_run(tmp_path / "student", replaced_videos={"a.mp4: cut": 2, "b.mp4: empty": 1})
    worse = {"loss_relative/image": 1.2, "student/effective_rank": 1.4, "optim/skipped_steps": 3.0}
    with open(run / "metrics.jsonl", "a") as file:
        file.write("not json\n" + json.dumps({"step": 40, **worse}) + "\n")
        file.writelines(json.dumps({"step": step, "perf/data_wait_share": 0.6}) + "\n" for step in range(50, 100, 10))
    words = Page(report([run], tmp_path / "out")[1]).words.replace("\u00a0", " ")
    for said in (
        "2 videos could not be read and were replaced 3 times",
        "last loss on image is 1.20 times that of predicting the mean target",
        "effective rank is 1.4; they have collapsed",
        "3 optimizer steps had a gradient that was not finite",
        "1 line of metrics.jsonl could not be read",
        "waited for data 60 % of the time",
    ):
        assert said in words, said
    assert "b.mp4" in words


def test_several_probe_runs_keep_their_models_apart(tmp_path: Path, probe_run: Build) -> None:
    runs = [probe_run(tmp_path / "seed0" / "probe"), probe_run(tmp_path / "seed1" / "probe", (0.0, -0.1, 0.1))]
    found, page = report([*runs, runs[0]], tmp_path / "out")
    assert list(found["runs"]) == ["seed0/probe", "seed1/probe"]
    assert len(found["probes"]) == 4
    assert found["comparisons"]["seed1/probe/student minus seed1/probe/untrained"]["how"]["low"] == -0.1
    assert "seed0/probe/student beats seed0/probe/untrained" in Page(page).words


def test_an_output_that_cannot_be_written_gets_one_line(tmp_path: Path, training_run: Build) -> None:
    run = training_run(tmp_path / "student")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--output .*file/out: cannot be written"):
        write_report([run], tmp_path / "file" / "out")
