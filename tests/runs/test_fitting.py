"""Fine-tuning fitted to what is there: the weights' network, the number of videos; what is stated stays."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import mvd_ds
from mvd_ds.cli import main
from mvd_ds.config import ConfigError, FinetuneRecipe, dump, load_recipe
from mvd_ds.config.load import validate
from mvd_ds.runs.finetune import finetune, learnt_and_held_out, read_labelled
from mvd_ds.runs.fitting import PEAK_RATE, fit_to_videos, fit_to_weights, require_same_fit, warn_if_unmoved
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.run_folder import RunFolder
from video_files import write_video

SHAPE = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_px": 6, "tubelet_frames": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder: 6 frames of 30 px in patches of 6, which no default has."""
    folder = tmp_path_factory.mktemp("weights") / "model"
    student = mvd_ds.build_student(encoder=SHAPE, decoder={"depth": 1}, targets={"image": 8}, frames=6, size_px=30)
    mvd_ds.save(student, folder, "mvd_ds")
    return folder


def _recipe(*overrides: str) -> FinetuneRecipe:
    recipe = load_recipe("finetune_folder", overrides, "finetune")
    assert isinstance(recipe, FinetuneRecipe)
    return recipe


def _fitted(videos: int, *overrides: str) -> FinetuneRecipe:
    recipe = _recipe("weights=null", *overrides)
    return fit_to_videos(recipe, recipe, videos)


def test_network_and_clip_are_those_of_the_weights(weights: Path) -> None:
    fitted = fit_to_weights(_recipe(f"weights={weights}"))
    assert {key: getattr(fitted.model, key) for key in SHAPE} == SHAPE
    assert (fitted.data.clip.frames, fitted.data.clip.size_px, fitted.grid) == (6, 30, (6, 5, 5))
    assert fitted.model.drop_path == 0.1
    assert fit_to_weights(_recipe(f"weights={weights}", "data.clip.frames=8")).data.clip.frames == 8


def test_an_image_encoder_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    image = SHAPE | {"kind": "image", "position": "sincos2d"}
    encoder = mvd_ds.build_student(encoder=image, decoder={"depth": 1}, targets={"image": 8}, frames=1, size_px=30)
    mvd_ds.save(encoder, tmp_path / "model", "mvd_ds")
    with pytest.raises(ConfigError, match=r"^weights .*model: an encoder of images, and a classifier is one of videos"):
        fit_to_weights(_recipe(f"weights={tmp_path / 'model'}"))


def test_missing_weights_are_named_with_the_way_to_do_without() -> None:
    with pytest.raises(
        ConfigError, match=r"^weights: runs/mvd_base_from_large/model: there is no .* or train from scratch by weights=null"
    ):
        fit_to_weights(_recipe())


def test_a_stated_network_is_not_replaced(weights: Path) -> None:
    stated = fit_to_weights(_recipe(f"weights={weights}", "model.depth=3"))
    assert (stated.model.depth, stated.model.embed_dim) == (3, 48)
    assert fit_to_weights(_recipe(f"weights={weights}", "model.size=small")).model.embed_dim == 384


@pytest.mark.parametrize(
    ("videos", "batch", "micro", "epochs"),
    [(2, 4, 4, 200), (7, 4, 4, 134), (24, 16, 8, 134), (100, 64, 8, 134), (9000, 64, 8, 20)],
)
def test_batch_and_epochs_follow_the_number_of_videos(videos: int, batch: int, micro: int, epochs: int) -> None:
    fitted = _fitted(videos)
    assert (fitted.batch.global_, fitted.batch.micro, fitted.schedule.epochs) == (batch, micro, epochs)
    assert fitted.learning_rate[0] == pytest.approx(PEAK_RATE)
    assert validate(dump(fitted), "dump") == fitted


def test_what_is_stated_stays() -> None:
    fitted = _fitted(
        24, "batch.global=32", "schedule.epochs=3", "optimizer.base_lr=1e-3", "data.workers=1", "engine.precision=bf16"
    )
    assert (fitted.batch.global_, fitted.batch.micro, fitted.schedule.epochs) == (32, 8, 3)
    assert fitted.learning_rate[0] == pytest.approx(1e-3 * 16 / 256)
    assert (fitted.data.workers, fitted.engine.precision) == (1, "bf16")
    assert _fitted(24, "schedule.steps=7").schedule.epochs is None
    assert _fitted(24, "batch.micro=12").batch.global_ == 12


def _listed(folder: Path, *counts: int) -> str:
    write_video(folder / "a.mp4", frames=4, width=32, height=32)
    lines = [f"a.mp4 {label}" for label, count in enumerate(counts) for _ in range(count)]
    (folder / "all.txt").write_text("\n".join(lines) + "\n")
    return f"data.manifest={folder / 'all.txt'}"


def test_a_share_of_each_class_is_held_out_the_same_for_every_seed(tmp_path: Path) -> None:
    manifest = _listed(tmp_path, 10, 2, 1, 5)
    found = [read_labelled(_recipe(manifest, f"run.seed={seed}")) for seed in (0, 5)]
    for videos in found:
        assert videos.held_out is not None
        assert np.bincount(videos.labels).tolist() == [8, 1, 1, 4]
        assert np.bincount(videos.held_out.labels, minlength=4).tolist() == [2, 1, 0, 1]
        places = [{ref.where for ref in part.refs} for part in (videos.training.manifests[0], videos.held_out.manifest)]
        assert not places[0] & places[1] and len(places[0] | places[1]) == 18
        assert videos.held_out.listing.count(b"a.mp4\t") == 4
    assert [ref.where for ref in found[0].held_out.manifest.refs] == [ref.where for ref in found[1].held_out.manifest.refs]


def test_held_out_videos_that_are_learnt_from_are_found(tmp_path: Path) -> None:
    twice = read_labelled(_recipe(_listed(tmp_path, 3, 3)))
    assert learnt_and_held_out(twice) == [str(tmp_path / "a.mp4")] * 2
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "other.txt").write_text("b.mp4 0\nb.mp4 1\n")
    apart = [f"data.manifest={tmp_path / 'all.txt'}", f"validation.manifest={tmp_path / 'other.txt'}"]
    assert learnt_and_held_out(read_labelled(_recipe(*apart))) == []


def test_several_manifests_cannot_be_divided(tmp_path: Path) -> None:
    _listed(tmp_path, 3, 3)
    sources = f"data.sources=[{{manifest: {tmp_path}/all.txt, weight: 1}}, {{manifest: {tmp_path}/all.txt, weight: 1}}]"
    with pytest.raises(ConfigError, match=r"validation\.share: divides one manifest"):
        read_labelled(_recipe(sources))


def test_a_loss_as_high_as_guessing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, recipe = RunFolder(tmp_path), _fitted(24)
    folder.model.mkdir()
    (folder.model / "config.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    for last, warned in ((1.097, True), (0.9, False)):
        losses = [1.2] * 19 + [last] * 2
        folder.metrics.write_text("".join(json.dumps({"loss/class": loss}) + "\n" for loss in losses))
        warn_if_unmoved(folder, recipe)
        assert ("the loss has not moved: it ends at 1.097, and guessing among 3 classes" in capsys.readouterr().out) == warned


def test_weights_that_are_not_there_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "finetune_folder", _listed(tmp_path, 3, 3), "weights=nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mvd_ds: weights: nowhere")


class Together(Cluster):
    """A rank of two, whose neighbour gives ``other`` to every gathering."""

    other: object = None

    def gather(self, value: object) -> list[object]:
        return [self.other, value]


def test_a_host_that_sees_no_videos_does_not_fail_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0, which sees them, is the one that speaks: a fault of rank 1 has to reach it."""

    @contextlib.contextmanager
    def joined(*_: object) -> Iterator[Cluster]:
        yield Together(1, 2, torch.device("cpu"))

    monkeypatch.setattr("mvd_ds.runs.in_cluster.joined_cluster", joined)
    for world, joins in (("1", 0), ("2", 1)):
        monkeypatch.setenv("WORLD_SIZE", world)
        entered = []
        monkeypatch.setattr(Together, "gather", lambda self, value, entered=entered: entered.append(value) or [None, value])
        with pytest.raises(ConfigError, match="gone: no such manifest"):
            finetune(_recipe("weights=null", "data.manifest=gone"), "finetune_folder")
        assert len(entered) == joins and all("gone: no such manifest" in text for text in entered)


def test_hosts_that_see_other_videos_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Together, "other", json.dumps(dump(_fitted(24))))
    cluster = Together(1, 2, torch.device("cpu"))
    require_same_fit(_fitted(24, "data.workers=7"), cluster)
    with pytest.raises(ConfigError, match=r"rank 0 sees others than rank 1: batch.global: 16 -> 4"):
        require_same_fit(_fitted(7), cluster)
