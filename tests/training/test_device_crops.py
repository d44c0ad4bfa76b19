"""Views of masks: crops of the clip by its place, the scores of their tokens, and what the student is given of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, TrainingRecipe, validate
from mvd_ds.data.masking_batch import device_masks
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.bench.step_variants import random_batch
from mvd_ds.training.device_crops import OwnViews, cut
from mvd_ds.training.language import CaptionLoss
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.step import TeacherTargets, normalise, to_unit

VALUES: dict[str, Any] = {
    "objective": "distillation",
    "data": {"clip": {"frames": 4, "size_px": 32, "flip": 0.0}},
    "masking": {
        "kind": "attention",
        "teacher": "average",
        "keep": "attended",
        "cell": 2,
        "ratio": 0.5,
        "masks_per_clip": 2,
        "view_area": [0.5, 1.0],
    },
    "model": {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 4, "cls_token": True, "drop_path": 0.0},
    "decoder": {"depth": 0, "hidden": 24},
    "teachers": {"average": {"weights": "ema", "target": {"kind": "summary", "norm": "final", "loss": "cosine"}}},
    "language": {"embed_dim": 12, "text": {"context": 24, "embed_dim": 16, "depth": 1, "num_heads": 2}},
    "optimizer": {"ema_decay": 0.9},
    "schedule": {"steps": 2},
    "batch": {"micro": 4, "global": 4},
    "engine": {"precision": "fp32"},
}


def recipe(**more: Any) -> TrainingRecipe:
    made = validate({**VALUES, **more}, "test")
    assert isinstance(made, TrainingRecipe)
    return made


def objective(run: TrainingRecipe) -> MaskedPrediction:
    student = build_predictor(run).train()
    teachers = {name: build_teacher(name, teacher, run) for name, teacher in run.teachers.items()}
    with torch.no_grad():
        for name, value in teachers["average"].named_parameters():
            value.copy_(student.state_dict()[name if name.startswith("encoder.") else f"encoder.{name}"])
    targets = TeacherTargets(run, teachers, torch.float32, device_masks(run))
    assert run.language is not None
    captions = CaptionLoss(run.language, lambda value: [value], rank=0)
    return MaskedPrediction(run, student, targets, torch.device("cpu"), captions)


def batch_of(run: TrainingRecipe) -> Any:
    assert run.language is not None
    generator = torch.Generator().manual_seed(4)
    made = random_batch(run, 4)
    words = torch.randint(0, 255, (4, run.language.text.length), generator=generator)
    words[:, 9] = run.language.text.vocabulary - 2
    return made._replace(captions=words)


def test_a_view_is_a_crop_of_the_clip_and_its_scores_are_those_there() -> None:
    """A ramp that is cut and resized is a ramp between the box's edges, for pixels and for scores alike."""
    run = recipe()
    views, batch = OwnViews(run), batch_of(run)
    ramp = torch.linspace(0, 1, 32).expand(4, 3, 4, 32, 32)
    found = views.clips(ramp, batch)
    assert found.shape == (8, 3, 4, 32, 32)
    places = torch.linspace(0, 1, 8).expand(4, 2, 8, 8).flatten(1)
    scores = views.scores(places, batch)
    assert scores.shape == (4, 2, 2 * 8 * 8)
    # Away from the edges, where nothing is repeated: steps are as much smaller as the box is.
    steps = found[:, 0, 0, 5].diff(dim=-1)[:, 8:24] * 31
    torch.testing.assert_close(steps, steps.mean(dim=1, keepdim=True).expand_as(steps), atol=1e-4, rtol=1e-4)
    shares = steps.mean(dim=1)
    assert shares.min() >= 0.5 and shares.max() <= 1.0 and len(shares.unique()) > 4, "boxes differ; some are as wide as the clip"
    of_scores = scores.flatten(0, 1).unflatten(1, (2, 8, 8))[:, 1, 3].diff(dim=-1)[:, 3] * 7
    torch.testing.assert_close(of_scores, shares, atol=1e-4, rtol=1e-4)
    moved = batch._replace(place=batch.place.flip(0))
    torch.testing.assert_close(views.clips(ramp, moved).unflatten(0, (4, 2)), found.unflatten(0, (4, 2)).flip(0))


def test_the_step_is_that_of_clips_that_were_cropped_before() -> None:
    """Losses and gradients equal those of views that are cut by hand, masked by the average's attention and seen one by one."""
    run = recipe()
    ours, batch = objective(run), batch_of(run)
    terms = ours(batch, measure=False)
    terms.total.backward()
    student, teacher = ours.student, ours.targets.teachers["average"]
    gradients = {name: value.grad for name, value in student.named_parameters() if value.grad is not None}
    student.zero_grad()
    clip = normalise(to_unit(batch.views[32]), torch.float32)
    with torch.no_grad():
        given = teacher(clip)
    boxes = ours.own_views._boxes(batch, (0.5, 1.0)).unflatten(0, (4, 2))
    losses, vectors, texts = [], [], None
    for mask in range(2):
        unit = batch.views[32].float().flatten(1, 2) / 255
        view = normalise(cut(unit, boxes[:, mask], (32, 32)).unflatten(1, (3, 4)), torch.float32)
        seen = cut(given["attention"].view(4, 2, 8, 8), boxes[:, mask], (8, 8))
        cells = seen.double().unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5)).flatten(2)
        kept = torch.zeros_like(cells).scatter(-1, cells.argsort(dim=-1, descending=True)[..., :8], 1.0).bool()
        tokens = kept.view(4, 2, 4, 1, 4, 1).expand(-1, -1, -1, 2, -1, 2).flatten(1)
        visible = torch.stack([row.nonzero().flatten() for row in tokens])[:, None]
        masked = torch.stack([(~row).nonzero().flatten() for row in tokens])[:, None]
        found = student(view, visible, masked, None, captions=batch.captions)
        vectors.append(found["language.clips"][:, 0])
        texts = found["language.texts"]
        losses.append(1 - torch.cosine_similarity(found["average"], given["average"], dim=-1).mean())
    assert texts is not None
    scale = student.language.scale()[0].exp()
    right = torch.arange(4)
    for clips in vectors:
        scores = scale * clips @ texts.T
        losses.append((torch.nn.functional.cross_entropy(scores, right) + torch.nn.functional.cross_entropy(scores.T, right)) / 2)
    total: Tensor = torch.stack(losses).sum() / 2
    total.backward()
    torch.testing.assert_close(terms.total, total)
    for name, value in student.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], value.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"masking": {"kind": "random", "view_area": [0.5, 1.0]}}, "masking.view_area is for masking.kind attention"),
        ({"masking": {**VALUES["masking"], "view_area": None}}, "would be that mask again: choose hint or multinomial, or view"),
        (
            {"teachers": {"average": {"weights": "ema", "target": {"kind": "features"}}}},
            "views are compared with summaries and visible captions alone: remove average, which is predicted at masked tokens",
        ),
        ({"language": {**VALUES["language"], "sees": "all"}}, "alone: remove language.sees all"),
    ],
)
def test_what_views_do_not_go_with_is_one_line(more: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        recipe(**more)


def test_without_views_nothing_changes() -> None:
    run = recipe(masking={**VALUES["masking"], "pick": "multinomial", "view_area": None})
    views, batch = OwnViews(run), batch_of(run)
    scores = torch.rand(4, 128)
    assert views.scores(scores, batch) is scores and views.rows(scores) is scores
    assert np.shares_memory(views.clips(scores, batch).numpy(), scores.numpy())
