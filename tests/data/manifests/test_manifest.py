"""Manifests: what a line means, and how a faulty one is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.manifest import read_manifest


def _write(folder: Path, text: str | bytes) -> Path:
    path = folder / "train.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("line", "path", "labels"),
    [
        ("a.mp4 3", "a.mp4", (3,)),
        ("a.mp4", "a.mp4", ()),
        ("a.mp4   3  -1 ", "a.mp4", (3, -1)),
        ("class 7/take 2 of 3.final.webm 12 5", "class 7/take 2 of 3.final.webm", (12, 5)),
        ("v1.5 beta/clip 9.mp4 4", "v1.5 beta/clip 9.mp4", (4,)),
        ("a.3gp 4", "a.3gp", (4,)),
        ("12 34.mp4\t5\t6", "12 34.mp4", (5, 6)),
        ("no extension\t5", "no extension", (5,)),
        ("a.mp4 3\r", "a.mp4", (3,)),
        ("\ufeffa.mp4 3", "a.mp4", (3,)),
        ("ä ö.mp4 3", "ä ö.mp4", (3,)),
    ],
)
def test_a_line_is_a_path_and_the_integers_after_its_extension(
    tmp_path: Path, line: str, path: str, labels: tuple[int, ...]
) -> None:
    _touch(tmp_path, path)
    manifest = read_manifest(_write(tmp_path, line + "\n"))
    assert manifest.refs[0].path == str(tmp_path / path)
    assert manifest.refs[0].labels == labels
    assert manifest.refs[0].where == "train.txt:1"
    assert manifest.labels.tolist() == [list(labels)]


def test_header_names_labels_and_other_comments_are_skipped(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    manifest = read_manifest(_write(tmp_path, "# made by hand\n# labels: what how\n\na.mp4 1 2\n# b is short\nb.mp4 3 4\n"))
    assert manifest.label_names == ("what", "how")
    assert [ref.where for ref in manifest.refs] == ["train.txt:4", "train.txt:6"]
    assert manifest.labels.dtype == np.int64
    assert manifest.labels.tolist() == [[1, 2], [3, 4]]
    assert [ref.labels for ref in manifest.refs[:1]] == [(1, 2)]


@pytest.mark.parametrize("header", ['["abseiling", "air drumming"]', '{"label": ["abseiling", "air drumming"]}'])
def test_header_names_classes(tmp_path: Path, header: str) -> None:
    _touch(tmp_path, "a.mp4")
    manifest = read_manifest(_write(tmp_path, f"# classes: {header}\na.mp4 1\n"))
    assert manifest.class_names == {"label": ("abseiling", "air drumming")}
    assert read_manifest(_write(tmp_path, "a.mp4 1\n")).class_names == {}


def test_classes_of_several_labels_stand_by_name(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4")
    text = '# labels: what how\n# classes: {"how": ["Holding [something]", "ä"]}\na.mp4 7 1\n'
    assert read_manifest(_write(tmp_path, text)).class_names == {"how": ("Holding [something]", "ä")}


def test_columns_stand_behind_the_labels(tmp_path: Path) -> None:
    _touch(tmp_path, "videos/a b", "c.mp4")
    text = "# root: videos\n# columns: frames codec\na b\t3\t-1\t300\th264\n../c.mp4\t4\t5\t20\tvp9\n"
    manifest = read_manifest(_write(tmp_path, text))
    assert [ref.labels for ref in manifest.refs] == [(3, -1), (4, 5)]
    assert manifest.refs[0].path == manifest.refs.location(0) == str(tmp_path / "videos/a b")
    unlabelled = read_manifest(_write(tmp_path, "# columns: frames\nc.mp4\t300\n"))
    assert (unlabelled.refs[0].labels, unlabelled.refs[0].path) == ((), str(tmp_path / "c.mp4"))
    assert read_manifest(_write(tmp_path, text), tmp_path / "videos").refs[1].path == str(tmp_path / "videos/../c.mp4")


def test_shards_are_places_in_tar_files(tmp_path: Path) -> None:
    _touch(tmp_path, "shards/0.tar", "shards/1.tar")
    text = "# columns: offset shard frames bytes\na/b.mp4\t3\t512\tshards/0.tar\t9\t70\nc.mp4\t4\t1024\tshards/1.tar\t9\t80\n"
    refs = read_manifest(_write(tmp_path, text)).refs
    assert refs.location(0) == (str(tmp_path / "shards/0.tar"), 512, 70, str(tmp_path / "a/b.mp4"))
    assert refs.location(1) == (str(tmp_path / "shards/1.tar"), 1024, 80, str(tmp_path / "c.mp4"))


def test_labels_without_names_are_numbered(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4")
    assert read_manifest(_write(tmp_path, "a.mp4 1")).label_names == ("label",)
    assert read_manifest(_write(tmp_path, "a.mp4 1 2")).label_names == ("label_1", "label_2")
    assert read_manifest(_write(tmp_path, "a.mp4")).label_names == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train.txt: the manifest is empty"),
        ("# labels: a\n\n", r"train.txt: the manifest is empty"),
        ("a.mp4 1\nabseiling 1\n", r"train.txt:2: 'abseiling 1' is not 'path label"),
        ("a.mp4 1\nb.mp4 1.5.2\n", r"train.txt:2: label '1.5.2' is none: a label is a class \(3\), several"),
        ("a.mp4 1\nb.mp4 dog\n", r"train.txt:2: .*labels are numbers"),
        ("a.mp4,1\n", r"train.txt:1: 'a.mp4,1' is not 'path label"),
        ("a.mp4 1\n12\n", r"train.txt:2: '12' is not 'path label"),
        ("https://h/a.mp4?sig=c0ffee 1\n", r"train.txt:1: 'https://h/a.mp4\?... 1' is not 'path label"),
        ("# columns: shard offset bytes\na.mp4\thttps://me:pw@h/a.tar\t1\tx\n", r"'https://...@h/a.tar 1 x' is not the name"),
        ("a.mp4 1\n\t3\n", r"train.txt:2: the path is missing"),
        ("a.mp4\t1\nb.mp4\tdog\n", r"train.txt:2: label 'dog' is none"),
        ("a.mp4 1\n# so\nb.mp4 1 2\n", r"train.txt:3: 2 labels, but 1 in line 1"),
        ("# labels: what how\na.mp4 1\n", r"names 2 labels \(what how\), but lines have 1"),
        ("# classes: a b\na.mp4 1\n", r"train.txt:1: '# classes:' needs JSON"),
        ('# classes: ["x", 3]\na.mp4 1\n', r"train.txt:1: '# classes:' needs JSON"),
        ('# classes: ["x", "y"]\na.mp4 1 1\n', r"train.txt:1: '# classes:' needs JSON"),
        ('# classes: ["x"]\na.mp4\n', r"train.txt:1: '# classes:' needs JSON"),
        ('# classes: {"why": ["x"]}\na.mp4 0\n', r"names 'why', but the labels are: label"),
        ('# classes: ["x", "y"]\na.mp4 1\nb.mp4 2\n', r"2 classes of 'label' \(0 to 1\), but video 2 is labelled 2"),
        ("# columns: frames fps\na.mp4\t1\n", r"train.txt:2: fewer fields than '# columns:' in line 1"),
        ("# columns: shard offset bytes\na.mp4\t0.tar\tx\t3\n", r"train.txt:2: '0.tar x 3' is not the name of a shard"),
        ("ftp://me:pw@h/a.mp4 1\n", r"none of the first 1 videos exists, for example .*ftp://...@h/a.mp4; paths"),
        ("gone.mp4 1\nlost.mp4 2\n", r"none of the first 2 videos exists, for example .*gone.mp4.*set data.root"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(ConfigError, match=message) as caught:
        read_manifest(_write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.txt: no such manifest file or folder"):
        read_manifest(tmp_path / "nowhere.txt")


def test_root_is_where_paths_begin(tmp_path: Path) -> None:
    _touch(tmp_path, "videos/a.mp4", "lists/x")
    path = _write(tmp_path / "lists", "a.mp4 1\n")
    assert read_manifest(path, tmp_path / "videos").refs[0].path == str(tmp_path / "videos/a.mp4")
    with pytest.raises(ConfigError, match=r"set data\.root"):
        read_manifest(path)


def test_single_missing_videos_are_no_fault_of_the_manifest(tmp_path: Path) -> None:
    _touch(tmp_path, "there.mp4")
    assert len(read_manifest(_write(tmp_path, "gone.mp4 1\nthere.mp4 2\n")).refs) == 2


def test_folder_lists_videos_and_images_below_it_sorted(tmp_path: Path) -> None:
    _touch(tmp_path, "b/2.mp4", "b/1.MP4", "a/z y.webm", "c.jpg", "notes.txt", ".hidden.mp4", ".trash/x.mp4", "b/._1.mp4")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    manifest = read_manifest(tmp_path)
    assert [Path(ref.path).relative_to(tmp_path).as_posix() for ref in manifest.refs] == [
        "a/z y.webm",
        "b/1.MP4",
        "b/2.mp4",
        "c.jpg",
    ]
    assert manifest.labels.shape == (4, 0)
    assert manifest.label_names == ()


def test_folder_per_class_gives_labels_and_class_names(tmp_path: Path) -> None:
    _touch(tmp_path, "b b/2.mp4", "a/deeper/1.mp4", "c/3.webm", "b b/1.mp4")
    manifest = read_manifest(tmp_path)
    assert [ref.labels for ref in manifest.refs[:]] == [(0,), (1,), (1,), (2,)]
    assert (manifest.label_names, manifest.class_names) == (("label",), {"label": ("a", "b b", "c")})


@pytest.mark.parametrize("names", [("train/a.mp4", "val/b.mp4"), ("one/a.mp4", "one/b.mp4"), ("one/a.mp4", "two/b.mp4", "c.mp4")])
def test_other_trees_have_no_labels(tmp_path: Path, names: tuple[str, ...]) -> None:
    _touch(tmp_path, *names)
    manifest = read_manifest(tmp_path)
    assert (manifest.labels.shape, manifest.label_names, manifest.class_names) == ((len(names), 0), (), {})


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no videos or images"):
        read_manifest(tmp_path)


def test_long_manifests_stay_small(tmp_path: Path) -> None:
    _touch(tmp_path, "train/video_000000.mp4")
    lines = "".join(f"train/video_{number:06d}.mp4 {number % 400}\n" for number in range(20_000))
    manifest = read_manifest(_write(tmp_path, lines))
    assert manifest.refs[19_999].labels == (399,)
    assert manifest.refs[-1].path.endswith("video_019999.mp4")
    # The text itself, and no object per line.
    fields = vars(manifest.refs).values()
    assert sum(field.nbytes for field in fields if isinstance(field, np.ndarray)) <= 20_000 * 32
    assert not any(isinstance(field, list | tuple | dict) for field in fields)


def test_files_of_formats_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.rm", "b.heic", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"holds 2 files of formats that are not read, such as a\.rm, and no videos or images"):
        read_manifest(tmp_path)
    for name in ("c.vob", "d.mxf", "e.asf", "f.mp4"):
        (tmp_path / name).touch()
    with caplog.at_level("WARNING", "mvd_ds"):
        assert [Path(ref.path).name for ref in read_manifest(tmp_path).refs] == ["c.vob", "d.mxf", "e.asf", "f.mp4"]
    assert caplog.messages == [f"{tmp_path}: skipped 2 files of formats that are not read, such as a.rm"]
