"""The clips of a probe: a draw of a few for a first look, and sets that cannot be probed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvd_ds.config import ConfigError, ProbeRecipe, load_recipe
from mvd_ds.runs.probing.probe_splits import require_labels, splits_of


def _recipe(*overrides: str) -> ProbeRecipe:
    recipe = load_recipe("quickstart_probe", overrides, "probe")
    assert isinstance(recipe, ProbeRecipe)
    return recipe


def test_a_first_look_takes_a_few_clips_of_each_split(videos: Path) -> None:
    manifests = (f"data.manifest={videos}/train.txt", f"validation_manifest={videos}/val.txt")
    (_, fitted_on), (_, held_out) = splits_of(_recipe(*manifests, "most_clips=20"))
    assert len(fitted_on) == 20 and held_out == list(range(16)) and fitted_on == sorted(set(fitted_on))
    (_, everything), _ = splits_of(_recipe(*manifests))
    assert everything == list(range(64))
    assert splits_of(_recipe(*manifests, "most_clips=20"))[0][1] == fitted_on


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a.mp4"] * 9, "has no labels to probe"),
        (["a.mp4 1"] * 9, "label label shows a single class"),
        (["a.mp4 0", "a.mp4 1"], "label label: the 0 clips that a probe is fitted on show a single class"),
    ],
)
def test_a_set_without_two_classes_is_refused_or_left_out(
    lines: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "all.txt").write_text("\n".join(lines) + "\n")
    recipe = _recipe(f"data.manifest={tmp_path}/all.txt", "validation_manifest=null", "labels=optional")
    with pytest.raises(ConfigError, match=words):
        require_labels(recipe)
    (manifest, _), _ = splits_of(recipe)
    assert manifest.label_names == () and (words in capsys.readouterr().out or "no labels" in words)


def test_a_set_with_labels_is_counted(videos: Path) -> None:
    recipe = _recipe(f"data.manifest={videos}/train.txt", "validation_manifest=null", "labels=optional")
    assert require_labels(recipe) == 64
    (manifest, fitted_on), (_, held_out) = splits_of(recipe)
    assert not set(fitted_on) & set(held_out) and np.array_equal(manifest.labels, splits_of(recipe)[1][0].labels)


def test_a_label_of_more_than_one_class_is_named(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "all.txt").write_text("# labels: what far\na.mp4 0 0.5\n" + "a.mp4 1 1\n" * 9)
    recipe = _recipe(f"data.manifest={tmp_path}/all.txt", "validation_manifest=null", "labels=optional")
    with pytest.raises(ConfigError, match=r"all.txt:2: label '0.5' is a real number, where one class is wanted"):
        require_labels(recipe)
    (manifest, _), _ = splits_of(recipe)
    assert manifest.label_names == ("what",) and "not probed: " in capsys.readouterr().out
