"""What class queries look at, as pictures: the brightest patch is the one they look at most; without a map nothing is drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mvd_ds
from mvd_ds.config import FinetuneRecipe, load_recipe
from mvd_ds.data.manifests.manifest import open_manifest
from mvd_ds.evaluation.sheets import CAPTION_PX, GAP_PX
from mvd_ds.models.classifiers.class_attention import PatchMaps
from mvd_ds.runs.adapting.pooling_pictures import PoolingPictures, plan_pooling_pictures
from mvd_ds.runs.pictures import CELL_PX, describe_clip
from mvd_ds.tools.report.picture_section import picture_numbers
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import normalise, to_unit

NETWORK = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 16}
CLASSES = [f"class {number}" for number in range(8)]


class Engine:
    """What pictures take of a DeepSpeed engine."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.eval, self.train = module.eval, module.train

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        assert not self.module.training and not torch.is_grad_enabled()
        return self.module(pixels)


class Writer:
    """Keeps what would go to TensorBoard."""

    images: dict[str, bytes]

    def show(self, step: int, images: dict[str, bytes], values: dict[str, Any]) -> None:
        assert step == 12 and not values
        self.images = images


def finetuning(videos: Path, *more: str) -> FinetuneRecipe:
    settings = ["model.size=null", *(f"model.{key}={value}" for key, value in NETWORK.items()), "weights=null"]
    settings += ["data.clip.frames=8", "data.clip.size_px=32", "data.clip.stride_frames=1", "data.workers=0", "label=how"]
    recipe = load_recipe("finetune_folder", [*settings, f"data.manifest={videos / 'train.txt'}", *more])
    assert isinstance(recipe, FinetuneRecipe)
    return recipe


@pytest.mark.parametrize("queries", ["one", "class"])
def test_the_brightest_patch_is_the_one_that_is_looked_at(queries: str, videos: Path, tmp_path: Path) -> None:
    pooling = {"kind": "attention", "queries": queries}
    recipe = finetuning(videos, f"pooling={pooling}", "run.picture_clips=2")
    manifest = open_manifest(videos / "train.txt")
    model = mvd_ds.build_classifier(NETWORK, 8, 8, 32, pooling=pooling).train()
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.pooling.attention.to_queries.weight, std=3.0)
    cluster, writer = Cluster(0, 1, torch.device("cpu")), Writer()
    pictures = PoolingPictures(recipe, RunFolder(tmp_path), cluster, Engine(model), manifest, CLASSES, last_step=12)  # type: ignore[arg-type]
    assert [step for step in range(1, 13) if pictures.due(step)] == [12]
    pictures(12, None, writer, {})  # type: ignore[arg-type]
    assert model.training and list(writer.images) == ["pictures/clip 0", "pictures/clip 1"]
    assert pictures.clips is not None
    with torch.no_grad(), PatchMaps(model.pooling.attention) as maps:
        likeliest = model.eval()(normalise(to_unit(pictures.clips), torch.float32)).argmax(1).tolist()
    assert maps.value is not None
    for place in range(2):
        page = np.asarray(Image.open(io.BytesIO(writer.images[f"pictures/clip {place}"]))).sum(-1)
        seen = maps.value[place, likeliest[place] if queries == "class" else 0].reshape(4, 2, 2)
        top = CAPTION_PX + CELL_PX + GAP_PX + GAP_PX + CAPTION_PX
        cells = [page[top:, GAP_PX + slot * (CELL_PX + GAP_PX) :][:CELL_PX, :CELL_PX] for slot in range(4)]
        shown = np.stack([cell.reshape(2, CELL_PX // 2, 2, CELL_PX // 2).mean((1, 3)) for cell in cells])
        assert shown.argmax() == int(seen.argmax())
    numbers = picture_numbers(tmp_path)
    assert numbers["step"] == 12 and numbers["files"] == ["clip-0.png", "clip-1.png"], "the report finds them"
    assert numbers["clips"][0]["classes"]["how"]


def test_the_map_of_several_blocks_names_the_block_that_it_is_of(videos: Path, tmp_path: Path) -> None:
    recipe = finetuning(videos, "pooling={kind: attention, layers: [0, -1]}", "run.picture_clips=1")
    manifest, engine = open_manifest(videos / "train.txt"), Engine(torch.nn.Identity())
    pictures = PoolingPictures(recipe, RunFolder(tmp_path), Cluster(0, 1, torch.device("cpu")), engine, manifest, CLASSES, 12)  # type: ignore[arg-type]
    pictures.clips = torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8)
    sheet = pictures._sheet(0, describe_clip(manifest, pictures.videos[0]), np.ones((1, 1, 16), np.float32), [0])
    assert list(sheet)[1].endswith("; to block 0")


def test_what_is_drawn(videos: Path) -> None:
    train, val = (open_manifest(videos / name) for name in ("train.txt", "val.txt"))
    assert plan_pooling_pictures(finetuning(videos), train, val) is None
    assert plan_pooling_pictures(finetuning(videos, "pooling=attention", "run.pictures_every_steps=0"), train, val) is None
    assert plan_pooling_pictures(finetuning(videos, "pooling=attention"), train, val) is val
    assert plan_pooling_pictures(finetuning(videos, "pooling=attention"), train, None) is train
