"""Captions of manifests: tab-separated and JSON lines, through prepare and shards, and one line for every fault."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mvd_ds.cli import main
from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.captions import caption_field, read_captions
from mvd_ds.data.manifests.json_lines import is_json_lines
from mvd_ds.data.manifests.listings import read_listing
from mvd_ds.data.manifests.manifest import open_manifest, read_manifest, require_captions

ODD = ["a tab\there", "two\nlines", 'a "quoted" one', "[laughs]", "日本語 ü é", "back\\slash", "  blanks  ", "a\u2028b", "😀"]


def test_a_field_gives_back_what_was_written() -> None:
    assert "\t" not in caption_field(ODD) and "\n" not in caption_field(ODD)
    assert read_captions(caption_field(ODD).encode()) == tuple(ODD)
    assert read_captions("plain, ü".encode()) == ("plain, ü",) and read_captions(b' "quoted"') == ("quoted",)
    assert read_captions(b"  ") == () and caption_field(()) == ""


def test_empty_lines_before_the_first_are_passed_over_at_once() -> None:
    begin = b"\n" * 200 + b"# a comment\n \t\r\n"
    assert is_json_lines(begin + b'{"path": "a.mp4"}') and not is_json_lines(begin + b"a.mp4 1")


def test_both_kinds_of_manifest_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "# labels: what how\n# columns: text note\n# a comment\n#x.mp4\n"
        f"a b.mp4\t3\t1\ta cat sleeps\tx\n./#c.mp4\t0\t2\t{caption_field(ODD)}\ty\nd.mp4\t0\t0\t\tz\n",
        encoding="utf-8",
    )
    rows = [
        {"labels": ["what", "how"]},
        {"path": "a b.mp4", "label": [3, 1], "text": "a cat sleeps"},
        {"path": "#c.mp4", "label": [0, 2], "text": ODD},
        {"path": "d.mp4", "label": [0, 0]},
    ]
    (tmp_path / "a.jsonl").write_text("# made by hand\n\n" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name, line in (("a.txt", 6), ("a.jsonl", 5)):
        manifest = open_manifest(tmp_path / name)
        assert manifest.label_names == ("what", "how") and manifest.labels.tolist() == [[3, 1], [0, 2], [0, 0]]
        assert [manifest.refs.captions(index) for index in range(3)] == [("a cat sleeps",), tuple(ODD), ()]
        assert [Path(ref.path).name for ref in manifest.refs] == ["a b.mp4", "#c.mp4", "d.mp4"]
        assert manifest.refs[1].where == f"{name}:{line}"
        assert manifest.part(np.array([1])).refs.captions(0) == tuple(ODD)


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        (b'[""]', "a caption is empty; leave it out"),
        (b"x" * 10_000_000, r"caption 'x+\.\.\.' has 10,000,000 bytes, and at most 65,536 are taken"),
        (b"caf\xe9", "text is not UTF-8 at its byte 4"),
        (b'["\\ud800"]', "holds half of a character"),
        (b'["a\\u0000man"]', r"caption 'a.*man' holds a NUL, which no text does"),
        (b"[laughs] a man", "begins as JSON does, and is none"),
        (b"[1, 2]", r"text is \[1, 2\], not a caption or a list of captions"),
    ],
)
def test_a_bad_caption_is_one_line(tmp_path: Path, field: bytes, fault: str) -> None:
    (tmp_path / "list.txt").write_bytes(b"# columns: text\na.mp4\t0\tfine\nb.mp4\t0\t" + field + b"\n")
    with pytest.raises(ConfigError, match=rf"^.*list.txt:3: .*{fault}") as caught:
        open_manifest(tmp_path / "list.txt")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"path": "a.mp4", "text": ["x", ""]}', "a caption is empty"),
        ('{"path": "a.mp4", "caption": "x"}', "key 'caption' is not known"),
        ('{"path": "a.mp4", "txt": "x"}', "key 'txt' is not known; did you mean 'text'"),
        ('{"path": "a\\tb.mp4"}', "not the name of a file"),
        ('{"text": "x"}', "path is None, not the name of a file"),
        ('{"path": "a.mp4", "label": "cat"}', "label is 'cat', not a number"),
        ('{"path": "a.mp4", "text": "\\udcff"}', "half of a character"),
        ('{"path": "a.mp4", ', "is not JSON"),
        ("[1]", "is no object"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path: Path, line: str, fault: str) -> None:
    (tmp_path / "list.jsonl").write_text('{"path": "a.mp4", "label": 0, "text": "x"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=f"list.jsonl:2: .*{fault}"):
        open_manifest(tmp_path / "list.jsonl")


def test_missing_captions_are_named(tmp_path: Path) -> None:
    (tmp_path / "bare.txt").write_text("a.mp4 0\n")
    with pytest.raises(ConfigError, match=r"bare.txt: has no captions, which language needs; add '# columns: text'"):
        require_captions(open_manifest(tmp_path / "bare.txt"), "language")
    (tmp_path / "part.txt").write_text("# columns: text\na.mp4\t0\tx\nb.mp4\t0\t\n")
    with pytest.raises(ConfigError, match=r"part.txt:3: .*b.mp4 has no caption, which language needs"):
        require_captions(open_manifest(tmp_path / "part.txt"), "language")


@pytest.mark.parametrize(
    "commands", ["", "--shards", "--encode mjpeg", "--shards --part 2/2, --shards --part 1/2, --shards --join"]
)
def test_captions_go_through_prepare(plain: Path, tmp_path: Path, commands: str) -> None:
    for name in ("a.mp4", "b.mp4"):
        os.link(plain, tmp_path / name)
    rows = [{"path": "a.mp4", "label": 1, "text": ODD}, {"path": "b.mp4", "label": 0}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for command in commands.split(","):
        assert main(["prepare", str(tmp_path / "list.jsonl"), str(tmp_path / "out"), "--workers", "1", *command.split()]) == 0
    refs = read_manifest(tmp_path / "out/train.txt").refs
    assert [refs.captions(index) for index in range(2)] == [tuple(ODD), ()]
    again = ["prepare", str(tmp_path / "out/train.txt"), str(tmp_path / "again"), "--workers", "1"]
    assert main(again) == 0
    assert read_manifest(tmp_path / "again/train.txt").refs.captions(0) == tuple(ODD)


def test_a_csv_list_has_a_column_of_captions(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.csv").write_text('path,label,caption\na.mp4,cat,"a cat, asleep"\n')
    assert read_listing(tmp_path / "list.csv").entries[0].captions == ("a cat, asleep",)
    (tmp_path / "list.csv").write_bytes(b"path,caption\na.mp4,caf\xe9\n")
    with pytest.raises(ConfigError, match=r"list.csv:2: text is not UTF-8 at its byte 4"):
        read_listing(tmp_path / "list.csv")
