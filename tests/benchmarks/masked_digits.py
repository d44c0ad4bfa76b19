"""How much of the digits of the sample set masks hide, by kind: ``python -m benchmarks.masked_digits FOLDER`` (a model folder).

The teacher is one that the quickstart's recipes wrote, of images or of videos. One line of JSON: share of the digits' pixels
that are hidden, by masks, over the held-out clips of the sample set; masks at random hide the ratio.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import TrainingRecipe, dump, load_recipe, validate
from mvd_ds.data.masking_motion import motion_scores
from mvd_ds.data.masking_scored import draw_numbers, scored_masks
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.synthetic.rendering import Glyphs, draw_scene, read_glyphs
from mvd_ds.models.teachers import build_teacher
from mvd_ds.models.weights import read_recipe
from mvd_ds.training.step import normalise, to_unit

KINDS: dict[str, dict[str, Any]] = {
    "high": {},
    "high, tube": {"ranking": "tube"},
    "hint": {"pick": "hint", "hint_from": 0.25, "hint_share": 0.5},
    "multinomial": {"pick": "multinomial"},
    "attended kept, cells of 2": {"keep": "attended", "cell": 2},
    "difference, high": {"kind": "motion"},
    "difference, multinomial": {"kind": "motion", "pick": "multinomial"},
    "block matching, high": {"kind": "motion", "motion": "block_matching"},
    "block matching, warp": {"kind": "motion", "motion": "block_matching", "pick": "warp"},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="model folder of quickstart_image or quickstart_video")
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--clips", type=int, default=200)
    options = parser.parse_args()
    name = "image" if read_recipe(options.folder).model.kind == "image" else "video"
    recipe = load_recipe("quickstart_distill", [f"teachers.{name}.weights={options.folder}"])
    assert isinstance(recipe, TrainingRecipe)
    clips, digits = _clips_and_digits(options.clips, recipe)
    shares, scores = {}, None
    for kind, changes in KINDS.items():
        own = _with_masks(recipe, {"kind": "attention", "ratio": options.ratio, **changes}, name)
        numbers = [draw_numbers(own.masking, own.grid, keyed_generator(0, "mask", 0, clip)) for clip in range(options.clips)]
        drawn = torch.from_numpy(np.stack(numbers))
        if own.masking.kind == "attention":
            scores = scores if scores is not None else _attention(own, name, clips)
            mask = scored_masks(own.masking, own.grid, scores, drawn)
        else:
            mask = scored_masks(own.masking, own.grid, motion_scores(own.masking, own.grid, clips, drawn), drawn)
        shares[kind] = round(float((digits * mask[:, 0]).sum() / digits.sum()), 3)
    print(json.dumps({"teacher": name, "ratio": options.ratio, "clips": options.clips, "digit_pixels_hidden": shares}))


def _with_masks(recipe: TrainingRecipe, masking: dict[str, Any], teacher: str) -> TrainingRecipe:
    if masking["kind"] == "attention":
        masking = {"teacher": teacher, **masking}
    found = validate({**dump(recipe), "masking": masking}, "masks")
    assert isinstance(found, TrainingRecipe)
    return found


@torch.no_grad()
def _attention(recipe: TrainingRecipe, name: str, clips: Tensor) -> Tensor:
    teacher = build_teacher(name, recipe.teachers[name], recipe)
    return torch.cat([teacher(normalise(to_unit(part), torch.float32))["attention"] for part in clips.split(20)])


def _clips_and_digits(count: int, recipe: TrainingRecipe) -> tuple[Tensor, Tensor]:
    """Return clips uint8 (B, C, T, H, W), and the digits' pixels in every token, (B, N)."""
    (t, h, w), clip, glyphs = recipe.grid, recipe.data.clip, read_glyphs(0)["val"]
    blank = Glyphs(np.zeros_like(glyphs.images), glyphs.digits)
    drawn = [
        np.stack([draw_scene(each, 0, "val", index, clip.size_px, clip.frames).pixels for index in range(count)])
        for each in (glyphs, blank)
    ]
    digit = torch.from_numpy(np.abs(drawn[0].astype(np.int16) - drawn[1]).max(axis=-1) > 32)
    tokens = digit.unflatten(3, (w, -1)).unflatten(2, (h, -1)).unflatten(1, (t, -1)).sum(dim=(2, 4, 6)).flatten(1)
    return torch.from_numpy(drawn[0]).permute(0, 4, 1, 2, 3).contiguous(), tokens.float()


if __name__ == "__main__":
    main()
