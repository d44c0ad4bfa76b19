"""Sets of every world are written alike; what one frame gives away of the game's world."""

from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.synthetic.worlds import WORLDS, open_world
from mvd_ds.data.synthetic.writer import write_sample_set


def test_a_set_of_the_game_has_arrays_beside_its_clips(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_sample_set(folder, 2, 1, 3, 32, 8, world="doom")
    written = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = read_manifest(folder / "train.txt")
    assert tuple(manifest.class_names["what"]) == WORLDS["doom"].what and len(manifest.refs) == 2
    with np.load(folder / "val" / "000000.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {"depth": (8, 32, 32), "mask": (8, 32, 32)}
        assert np.issubdtype(arrays["depth"].dtype, np.floating) and arrays["mask"].dtype == bool, "as a read-out takes them"
    with av.open(str(folder / "train" / "000000.mp4")) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size), "no frame is coded by others"
    (folder / "train" / "000001.mp4").unlink()
    (folder / "train.txt").unlink()
    write_sample_set(folder, 2, 1, 3, 32, 8, world="doom")
    assert written == {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="holds a sample set with world doom, not digits"):
        write_sample_set(folder, 2, 1, 3, 32, 8)


def test_an_unknown_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no world quake; there are digits, doom"):
        write_sample_set(tmp_path / "set", 2, 1, 3, 32, 8, world="quake")


@pytest.mark.nightly
def test_neither_one_frame_nor_the_first_and_last_tell_how_the_camera_moves() -> None:
    """Eight motions: chance is .125; 480 clips learn, 160 are asked, so that three deviations are .08."""
    draw, clips = open_world("doom", 5, 24, 8), {"train": 480, "val": 160}
    looks = {"one": lambda pixels: pixels[4], "ends": lambda pixels: pixels[[0, -1]]}
    seen = {split: [draw(split, index).pixels for index in range(count)] for split, count in clips.items()}
    how = {split: _hows(split, count) for split, count in clips.items()}
    for name, look in looks.items():
        pixels = {split: np.stack([look(clip).ravel() for clip in found]) for split, found in seen.items()}
        forest = RandomForestClassifier(200, random_state=0).fit(pixels["train"], how["train"])
        assert forest.score(pixels["val"], how["val"]) < 0.125 + 0.08, name


def _hows(split: str, count: int) -> list[int]:
    from mvd_ds.data.synthetic.rendering import draw_labels

    return [draw_labels(5, split, index)[1] for index in range(count)]
