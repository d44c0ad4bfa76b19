"""Fine-tuning under ZeRO-3 in two processes equals a plain PyTorch loop in one: rates by layer, betas, clipping, average."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional as F

from launching import losses
from mvd_ds.config import FinetuneRecipe, load_recipe
from mvd_ds.data.augmentation.labelled import LabelledClips
from mvd_ds.data.batch import LabelledBatch
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.classifiers.classifier_folder import open_classifier
from mvd_ds.models.init_from_checkpoint import init_classifier_from_checkpoint

pytestmark = pytest.mark.launch

CLASSES = 8


def _mixed(batch: LabelledBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips and soft targets, pair by pair."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    (pixels,) = batch.views.values()
    shown = torch.stack([clip.flip(-1) if flip else clip for clip, flip in zip(pixels, batch.flip, strict=True)])
    shown = (shown.float() / 255 - mean.view(3, 1, 1, 1)) / deviation.view(3, 1, 1, 1)
    clips, targets = shown.clone(), torch.full((len(shown), CLASSES), 0.1 / CLASSES)
    for row, other in enumerate(batch.partner.tolist()):
        share = float(batch.own_share[row])
        t0, t1, y0, y1, x0, x1 = batch.box[row].tolist()
        if t1:
            clips[row, :, t0:t1, y0:y1, x0:x1] = shown[other, :, t0:t1, y0:y1, x0:x1]
        else:
            clips[row] = share * shown[row] + (1 - share) * shown[other]
        targets[row, batch.label[row]] += 0.9 * share
        targets[row, batch.label[other]] += 0.9 * (1 - share)
    return clips, targets


def _optimizer(model: Classifier, recipe: FinetuneRecipe) -> torch.optim.AdamW:
    """A group for every parameter, with the factor of its layer."""
    groups = []
    for name, parameter in model.named_parameters():
        layer = recipe.model.depth + 1
        if name.startswith("encoder.patch_embed"):
            layer = 0
        elif name.startswith("encoder.blocks"):
            layer = int(name.split(".")[2]) + 1
        decay = 0.05 if parameter.ndim > 1 and "cls_token" not in name else 0.0
        groups.append({"params": [parameter], "weight_decay": decay, "factor": 0.75 ** (recipe.model.depth + 1 - layer)})
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)


def _plain(recipe: FinetuneRecipe) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """Losses by name, and the moving average of the weights, of an ordinary loop."""
    manifest = read_manifest(recipe.data.manifest)
    clips = LabelledClips(recipe, manifest, manifest.labels[:, manifest.label_names.index("how")])
    loader = ClipLoader(recipe, 3, 0, 1, clips)
    assert recipe.teacher is not None
    teacher, _ = open_classifier(recipe.teacher.weights)
    model = init_classifier_from_checkpoint(recipe, CLASSES).train()
    optimizer = _optimizer(model, recipe)
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    curves: dict[str, list[float]] = {"loss/class": [], "loss/teacher": []}
    steps, warmup, peak, final = 16, 8, 0.03 * 8 / 256, 1e-6 * 8 / 256
    batches, norms = loader.batches(0, steps), []
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        rate = peak * step / (warmup - 1) if step < warmup else final + (peak - final) * cosine
        sums = dict.fromkeys(curves, 0.0)
        for _ in range(4):
            batch = next(batches)
            shown, target = _mixed(batch)
            logits = model(shown, batch.drop_path, batch.dropout)
            with torch.no_grad():
                wanted = (teacher(shown) / 2).softmax(1)
            parts = {
                "loss/class": SoftTargetCrossEntropy()(logits, target),
                "loss/teacher": 4 * F.kl_div((logits / 2).log_softmax(1), wanted, reduction="batchmean"),
            }
            (sum(parts.values()) * 0.5 / 4).backward()
            for name, part in parts.items():
                sums[name] += float(part.detach()) / 4
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in model.named_parameters():
            average[name] = 0.8 * average[name] + 0.2 * parameter.detach()
        for name, total in sums.items():
            curves[name].append(total)
    assert max(norms) > 0.3, "some steps are clipped"
    return curves, average


def test_losses_and_average_are_those_of_a_plain_loop(finetuned: Path, small_finetune: list[str]) -> None:
    settings = [*small_finetune, "model.activation_checkpointing=0", "batch.micro=4"]
    recipe = load_recipe("finetune_k400_large", settings, "finetune")
    assert isinstance(recipe, FinetuneRecipe)
    curves, average = _plain(recipe)
    for name, curve in curves.items():
        assert losses(finetuned, name) == pytest.approx(curve, rel=1e-4), name
    exported = load_file(finetuned / "model" / "model.safetensors")
    assert exported.keys() == average.keys()
    for name, value in average.items():
        torch.testing.assert_close(exported[name], value, rtol=1e-3, atol=1e-5, msg=name)
