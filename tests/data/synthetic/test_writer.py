"""The folder of the sample set: the same files whoever writes them, complete or refused."""

import errno
from pathlib import Path

import numpy as np
import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.readers.decode import read_frames
from mvd_ds.data.synthetic import writer as synthetic
from mvd_ds.data.synthetic.rendering import draw_scene, read_glyphs
from mvd_ds.data.synthetic.writer import write_sample_set


def write(folder: Path, train: int = 5, validation: int = 3, **settings: int) -> Path:
    write_sample_set(folder, train, validation, **{"seed": 7, "size_px": 32, "frames": 8, **settings})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_manifests_name_every_video_and_both_labels(videos: Path) -> None:
    for name, count in (("train.txt", 64), ("val.txt", 16)):
        manifest = read_manifest(videos / name)
        assert manifest.label_names == ("what", "how")
        assert len(manifest.refs) == count
        assert len({ref.path for ref in manifest.refs}) == count
        assert all(Path(ref.path).is_file() for ref in manifest.refs)
        assert manifest.labels.min() >= 0 and (manifest.labels.max(0) < (10, 8)).all()
        assert {label: len(names) for label, names in manifest.class_names.items()} == {"what": 10, "how": 8}


def test_videos_hold_what_was_drawn(videos: Path) -> None:
    glyphs = read_glyphs(1)
    for split in ("train", "val"):
        manifest = read_manifest(videos / f"{split}.txt")
        for index in range(8):
            drawn = draw_scene(glyphs[split], 1, split, index, 48, 16).pixels.astype(float)
            read = read_frames(manifest.refs.path(index), np.arange(16)).astype(float)
            assert read.shape == (16, 48, 48, 3)
            grey = read.mean(3) - drawn.mean(3)  # colours are stored at half resolution
            assert np.sqrt((grey**2).mean()) < 3
            assert np.sqrt((grey**2).mean((1, 2))).max() < 4, "no frame suffers from the motion"


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    alone = contents(write(tmp_path / "alone", train=40))
    together = contents(write(tmp_path / "together", train=40, workers=2))
    assert alone == together
    other = contents(write(tmp_path / "other", train=40, seed=8))
    assert not {other[name] for name in other if name.endswith(".mp4")} & set(alone.values())


def test_size_and_length_are_free(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path / "set", size_px=96, frames=24) / "val.txt")
    assert read_frames(manifest.refs.path(0), np.arange(24)).shape == (24, 96, 96, 3)


def test_a_larger_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    small, large = write(tmp_path / "small", train=5), write(tmp_path / "large", train=9)
    names = sorted(path.name for path in (small / "train").iterdir())
    assert len(names) == 10, "five clips, and the targets beside each"
    assert all((small / "train" / name).read_bytes() == (large / "train" / name).read_bytes() for name in names)
    assert (large / "train.txt").read_text().startswith((small / "train.txt").read_text())


def test_progress_counts_every_clip(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_sample_set(tmp_path / "set", 40, 3, 7, 32, 8, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (43, 43) and len(seen) > 1
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_complete_set_is_left_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_an_interrupted_set_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(write(tmp_path / "whole"))
    left = 4
    encode = synthetic.encode

    def fail_after_some(pixels: np.ndarray, key_frames: int) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return encode(pixels, key_frames)

    monkeypatch.setattr(synthetic, "encode", fail_after_some)
    with pytest.raises(ConfigError, match="the disk is full"):
        write(tmp_path / "set")
    assert not (tmp_path / "set" / "train.txt").exists()
    assert len(list((tmp_path / "set").rglob("*.mp4"))) == 4
    monkeypatch.setattr(synthetic, "encode", encode)
    assert contents(write(tmp_path / "set")) == whole


@pytest.mark.parametrize("setting", [{"seed": 8}, {"size_px": 48}, {"frames": 9}, {"train": 6}, {"validation": 2}])
def test_a_set_of_other_settings_is_refused(tmp_path: Path, setting: dict[str, int]) -> None:
    folder = write(tmp_path / "set")
    before = contents(folder)
    with pytest.raises(ConfigError, match="another folder") as error:
        write(folder, **setting)
    assert "\n" not in str(error.value)
    assert contents(folder) == before


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        write(tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write(tmp_path / "file")
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / synthetic.SETTINGS_FILE).write_text("{")
    with pytest.raises(ConfigError, match="not readable"):
        write(tmp_path / "record")


@pytest.mark.parametrize("setting", [{"train": 0}, {"validation": 0}, {"size_px": 33}, {"size_px": 8}, {"frames": 7}])
def test_settings_out_of_range_are_refused(tmp_path: Path, setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="synthesize: "):
        write(tmp_path / "set", **setting)
    assert not (tmp_path / "set").exists()
