"""A row's file is the one that it names; a guess that could be another video is none."""

from __future__ import annotations

from pathlib import Path

from mvd_ds.data.manifests.listings import Listing, read_listing


def listed(folder: Path, rows: list[str], *files: str) -> Listing:
    for name in files:
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "videos" / name).touch()
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{row}\n" for row in rows))
    return read_listing(folder / "list.csv", folder / "videos")


def found(listing: Listing) -> dict[str, int]:
    return {entry.name: entry.labels[0] for entry in listing.entries}


def test_equal_names_in_two_folders_are_two_videos(tmp_path: Path) -> None:
    files = ("walk/001.mp4", "run/001.mp4")
    for prefix in ("/elsewhere/", "./", "", str(tmp_path / "videos") + "/"):
        listing = listed(tmp_path, [f"{prefix}walk/001.mp4,walk", f"{prefix}run/001.mp4,run"], *files)
        assert found(listing) == {"walk/001.mp4": 1, "run/001.mp4": 0} and not listing.missing, prefix


def test_a_file_is_not_given_to_two_rows(tmp_path: Path) -> None:
    listing = listed(tmp_path, ["/gone/walk/001.mp4,walk", "/gone/run/001.mp4,run", "x.mp4,run"], "run/001.mp4", "x.mp4")
    assert found(listing) == {"x.mp4": 0}
    assert set(listing.missing) == {"/gone/walk/001.mp4", "/gone/run/001.mp4"}
    listing = listed(tmp_path, ["run/001.mp4,run", "/gone/walk/001.mp4,walk"])
    assert found(listing) == {"run/001.mp4": 0}
    assert "run/001.mp4 is already that of run/001.mp4" in listing.missing["/gone/walk/001.mp4"]


def test_a_name_that_fits_several_files_is_missing(tmp_path: Path) -> None:
    listing = listed(tmp_path, ["/gone/001.mp4,x", "y,x", "z.mp4,x"], "a/001.mp4", "b/001.mp4", "y.mp4", "y.webm", "z.mp4")
    assert found(listing) == {"z.mp4": 0}
    assert "fits 2 files: a/001.mp4, b/001.mp4" in listing.missing["/gone/001.mp4"]
    assert "fits 2 files: y.mp4, y.webm" in listing.missing["y"]


def test_another_extension_or_folder_is_told(tmp_path: Path) -> None:
    listing = listed(tmp_path, ["a/1.avi,x", "/gone/2.mp4,x"], "a/1.mp4", "b/2.mp4")
    assert found(listing) == {"a/1.mp4": 0, "b/2.mp4": 0}
    assert "1 of the list's videos are there with another extension than it says: a/1.avi is a/1.mp4" in listing.notes[0]
    assert "/gone/2.mp4 is b/2.mp4" in listing.notes[1]


def test_two_clips_of_one_source_are_not_the_whole_source(tmp_path: Path) -> None:
    (tmp_path / "id.mp4").touch()
    head = "label,youtube_id,time_start,time_end\n"
    (tmp_path / "train.csv").write_text(head + "ski,id,1,11\nrun,id,20,30\nski,other,1,11\n")
    (tmp_path / "other.mp4").touch()
    listing = read_listing(tmp_path / "train.csv")
    assert found(listing) == {"other.mp4": 1} and set(listing.missing) == {"id_000001_000011", "id_000020_000030"}
