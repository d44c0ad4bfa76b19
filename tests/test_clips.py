"""Clips and masks from Python: what a training would see, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mvd_ds
from mvd_ds.training.step import normalise, to_unit
from video_files import all_frames, write_video


def test_a_clip_goes_from_a_file_through_a_mask_into_a_student(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", frames=16, width=64, height=48)
    clip = mvd_ds.read_clip(video, {"frames": 4, "stride_frames": 2, "size_px": 32})
    assert clip.shape == (1, 3, 4, 32, 32) and clip.dtype == torch.uint8
    views = mvd_ds.read_clip(video, {"frames": 4, "stride_frames": 1, "size_px": 48, "sampling": "uniform"}, segments=2, crops=3)
    assert views.shape == (6, 3, 4, 48, 48)
    middle = all_frames(video)[:, :, 8:56].transpose(3, 0, 1, 2)
    assert torch.equal(views[1], torch.from_numpy(middle[:, [1, 5, 9, 13]].copy())), "the crops of a segment, left to right"
    student = mvd_ds.build_student({"embed_dim": 32, "depth": 1, "num_heads": 2}, frames=4, size_px=32)
    mask = mvd_ds.draw_masks({"kind": "tube", "ratio": 0.5, "masks_per_clip": 2}, student.encoder.grid, clips=1)
    assert mask.shape == (1, 2, 8) and mask.dtype == torch.bool and mask.sum(-1).tolist() == [[4, 4]]
    assert student(mvd_ds.normalise(clip), mask)["image"].shape == (2, 4, 32)


def test_normalised_as_in_a_training() -> None:
    clips = torch.randint(0, 256, (2, 3, 2, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(mvd_ds.normalise(clips), normalise(to_unit(clips), torch.float32))


def test_masks_are_keyed_by_seed_and_clip() -> None:
    masks = mvd_ds.draw_masks({}, (2, 4, 4), clips=4, seed=3)
    assert torch.equal(masks[2:], mvd_ds.draw_masks({}, (2, 4, 4), clips=2, seed=3, first=2))
    assert not torch.equal(masks, mvd_ds.draw_masks({}, (2, 4, 4), clips=4, seed=4))


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(mvd_ds.ConfigError, match=r"broken.mp4: cannot be read: "):
        mvd_ds.read_clip(tmp_path / "broken.mp4")
    with pytest.raises(mvd_ds.ConfigError, match=r"^clip.frame: did you mean 'frames'\?$"):
        mvd_ds.read_clip(tmp_path / "broken.mp4", {"frame": 8})
    with pytest.raises(mvd_ds.ConfigError, match=r"^masking.ratio: "):
        mvd_ds.draw_masks({"ratio": 2}, (2, 4, 4))
    with pytest.raises(mvd_ds.ConfigError, match=r"uint8 \(B, C, T, H, W\), got torch.float32"):
        mvd_ds.normalise(torch.zeros(1, 3, 2, 8, 8))
    with pytest.raises(mvd_ds.ConfigError, match=r"loss 'smoth_l1' is not known; did you mean 'smooth_l1'\?"):
        mvd_ds.distillation_loss({}, {}, torch.tensor([[True, False]]), "smoth_l1")


def test_a_recipe_of_another_kind_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(
        mvd_ds.ConfigError, match=r"is a recipe of `evaluate`; it takes pretrain, distill, tokenizer and finetune"
    ):
        mvd_ds.train("evaluate_5x3", f"run.output={tmp_path / 'run'}")
    with pytest.raises(mvd_ds.ConfigError, match="did you mean"):
        mvd_ds.train("quickstart_imge")


@pytest.mark.launch
def test_train_from_python(videos: Path, tmp_path: Path) -> None:
    settings = ["schedule.epochs=null", "schedule.warmup_epochs=null", "schedule.steps=2", "schedule.warmup_steps=0"]
    settings += ["run.pictures_every_steps=0", "run.probe_every_steps=0", "run.picture_manifest=null", "data.workers=0"]
    run = mvd_ds.train("quickstart_image", f"data.manifest={videos / 'train.txt'}", f"run.output={tmp_path / 'run'}", *settings)
    assert run == tmp_path / "run" and (run / "model" / "model.safetensors").is_file()
    assert mvd_ds.train("quickstart_image", f"data.manifest={videos / 'train.txt'}", f"run.output={run}", *settings) == run
