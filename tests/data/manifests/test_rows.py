"""Lists are read by their content; a row that is not understood is named and never becomes data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvd_ds.data.manifests.listings import read_listing
from mvd_ds.files import ConfigError


def write(folder: Path, name: str, text: str | bytes) -> Path:
    for video in ("a/1.mp4", "a/2.mp4", "b/3.mp4", "caf\xe9.mp4", "id1_000001_000011.mp4"):
        (folder / video).parent.mkdir(exist_ok=True)
        (folder / video).touch()
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def labels(source: Path) -> dict[str, tuple[int, ...]]:
    return {entry.name: entry.labels for entry in read_listing(source).entries}


@pytest.mark.parametrize("name", ["list.csv", "list.txt", "list.json", "list"])
@pytest.mark.parametrize(
    "text",
    [
        "a/1.mp4 10\nb/3.mp4 2\n",
        "a/1.mp4,10\nb/3.mp4,2\n",
        "filename,label\na/1.mp4,10\nb/3.mp4,2\n",
        "Video Path;Class ID\na/1.mp4;10\nb/3.mp4;2\n",
        "label,path,split\n10,a/1.mp4,train\n2,b/3.mp4,train\n",
        "path\tlabel\na/1.mp4\t10\nb/3.mp4\t2\n",
        "\ufeffpath,label\r\na/1.mp4,10\r\nb/3.mp4,2\r\n",
        '[{"id": "a/1.mp4", "label": "10"}, {"id": "b/3.mp4", "label": "2"}]',
    ],
)
def test_the_content_tells_the_format_and_not_the_suffix(tmp_path: Path, name: str, text: str) -> None:
    assert labels(write(tmp_path, name, text)) == {"a/1.mp4": (10,), "b/3.mp4": (2,)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo,bar\na/1.mp4,2\n", "list.csv:1: .*neither a video with its class nor a header that is known"),
        ("path,kind\na/1.mp4,2\n", "list.csv:1: the header 'path,kind' is not understood"),
        ("video_file_path,cls\na/1.mp4,2\n", "list.csv:1: 'video_file_path,cls' is neither a video nor a known header"),
        ("vid_id,cls\nid1_000001_000011,2\nid9_1,2\n", "list.csv:1: label 'cls' is not like the others"),
        ("vid_id,cls\nid1_000001_000011,x\nid9_1,x\n", "list.csv:1: 'vid_id,cls' is neither a video nor a known header"),
        ("a/1.mp4,2\n,,\n", "list.csv:2: ',,' has 3 fields"),
        ("a/1.mp4,2\n,\n", "list.csv:2: ',' is not 'path,label'"),
        ("a/1.mp4,2\na/2.mp4,\n", "list.csv:2: 'a/2.mp4,' is not 'path,label'"),
        ("a/1.mp4,2\na/2.mp4,0.0\n", "list.csv:2: label '0.0' is no class number"),
        ("a/1.mp4,2\na/2.mp4,-1\n", "list.csv:2: label '-1' is no class number"),
        ("a/1.mp4,2\na/2.mp4,4000000000\n", "list.csv:2: label '4000000000' is no class number.* up to 99999"),
        ("a/1.mp4,2\na/2.mp4," + "9" * 5000 + "\n", "list.csv:2: label '9999.*' is no class number"),
        ("a/1.mp4,2\na/2.mp4,3\nb/3.mp4,dog\n", "list.csv:3: label 'dog' is not like the others"),
        ("a/1.mp4,cat\na/2.mp4,dog\nb/3.mp4,3\n", "list.csv:3: label '3' is not like the others"),
        ("path,label\na/1.mp4,push, pull\n", "list.csv:2: .* has 3 fields, not 2; put names with a comma into quotes"),
        ("a/1.mp4,0,300,5\n", "list.csv:1: .* has 4 fields, not 2"),
        ('path,label\na/1.mp4,"walk\na/2.mp4,walk"\nb/3.mp4,run\n', "list.csv:3: .*is a quotation mark not closed"),
        ('"a/1.mp4,walk\na/2.mp4,walk\n', "list.csv:2: .*is a quotation mark not closed"),
        ("path,label\n", "the list is empty"),
        (
            "path,label,split\na/1.mp4,x,train\na/2.mp4,x,val\n",
            "list.csv:3: column split has 'train' and 'val'; write one",
        ),
        ('[{"id": "a/1.mp4", "label": true}]', "entry 1: is not a list of"),
        ("a/1.mp4,x\n" + "y" * 140_000 + ".mp4,x\n", "list.csv:2: is not a row of a list: field larger than"),
        ("label,youtube_id,time_start,time_end\nski,id1,1,inf\n", "list.csv:2: is not a line of label,youtube_id"),
        ("label,youtube_id,time_start,time_end\n,id1,1,11\n", "list.csv:2: is not a line of label,youtube_id"),
        ('[{"id": "a/1.mp4", "label": "x"}, {"id": ["b"]}]', "entry 2: is not a list of"),
        ('[{"id": "a/1.mp4", "label": "x"}, {"id": "b/3.mp4"}]', "entry 2: has no class, but other rows have"),
        ("[" * 100_000, "cannot be read as JSON"),
        (
            b"a/1.mp4,na\xefve\n",
            "list.csv:1: is not UTF-8; .*iconv -f CP1252 -t UTF-8|class '.*': is not UTF-8; .*iconv -f CP1252",
        ),
        ("a/1.mp4,x\n".encode("utf-16"), "is text in UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8"),
        ("a/1.mp4 3\n".encode("utf-16-le"), "is text in UTF-16, not UTF-8; convert it"),
        (b"\0\0\0\x18ftypmp42" + bytes(100), "is not a list of videos, it seems to be an MP4 or MOV video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "seems to be a git-LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "seems to be a web page"),
    ],
)
def test_an_odd_row_is_named_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_listing(write(tmp_path, "list.csv", text))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_a_test_list_without_classes_has_none(tmp_path: Path) -> None:
    listing = read_listing(write(tmp_path, "test.csv", "youtube_id,time_start,time_end,split\nid1,1,11,test\n"))
    assert (listing.label_names, listing.class_names) == ((), {})
    assert [(entry.name, entry.labels) for entry in listing.entries] == [("id1_000001_000011.mp4", ())]
    source = write(tmp_path, "test.json", json.dumps([{"id": "3"}]))
    assert read_listing(source).label_names == ()


def test_names_in_another_encoding_are_told_apart_from_files_of_such_names(tmp_path: Path) -> None:
    source = write(tmp_path, "list.txt", b"caf\xe9.mp4 1\n")
    with pytest.raises(ConfigError, match=r"list.txt: is not UTF-8; .*iconv -f CP1252 -t UTF-8 .*list.txt"):
        read_listing(source)
    (tmp_path / "caf\udce9.mp4").touch()
    assert labels(source) == {"caf\udce9.mp4": (1,)}
    assert labels(write(tmp_path, "list.csv", b"path,label\ncaf\xe9.mp4,1\n")) == {"caf\udce9.mp4": (1,)}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ('{"x": 0, "y": 2}', "needs the numbers 0 to 1, each once"),
        ('{"x": 0, "y": 0}', "needs the numbers 0 to 1, each once"),
        ('{"x": 4000000000}', "needs the numbers 0 to 0, each once"),
        ('["x", "x"]', "names the class 'x' twice"),
        ('["x", 3]', "needs a list of class names"),
    ],
)
def test_class_names_have_one_number_each(tmp_path: Path, classes: str, message: str) -> None:
    source = write(tmp_path, "list.csv", "a/1.mp4,x\n")
    with pytest.raises(ConfigError, match=message):
        read_listing(source, None, write(tmp_path, "classes.txt", classes))


def test_folders_and_manifests_take_the_training_splits_numbers(tmp_path: Path) -> None:
    """A validation folder that lacks a class numbers the others differently."""
    (tmp_path / "val").mkdir()
    write(tmp_path / "val", "classes.json", '["0", "a", "b"]')
    for name in ("caf\xe9.mp4", "id1_000001_000011.mp4"):
        (tmp_path / "val" / name).unlink()
    listing = read_listing(tmp_path / "val", None, tmp_path / "val/classes.json")
    assert [entry.labels for entry in listing.entries] == [(1,), (1,), (2,)]
    assert listing.class_names == {"label": ("0", "a", "b")}


def test_a_video_with_two_classes_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path, "list.csv", "a/1.mp4,walk\na/1.mp4,run\nb/3.mp4,run\n")
    message = "list.csv: a/1.mp4 is listed with two classes, 'walk' and 'run'; keep one row of each video"
    with pytest.raises(ConfigError, match=message):
        read_listing(source)
    assert len(read_listing(write(tmp_path, "list.csv", "a/1.mp4,run\na/1.mp4,run\n")).entries) == 2


def test_a_name_with_blanks_is_the_one_that_was_written(tmp_path: Path) -> None:
    for name in (" lead.mp4", "lead.mp4", "b/3.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source = write(tmp_path, "list.csv", '" lead.mp4",own\nlead.mp4,other\n b/3.mp4 ,other\n')
    assert labels(source) == {" lead.mp4": (1,), "lead.mp4": (0,), "b/3.mp4": (0,)}
