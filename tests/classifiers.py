"""A small classifier of the sample set's *how*, with fixed random weights, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import mvd_ds
from mvd_ds.config import ClipSettings, PreprocessingSettings
from mvd_ds.data.synthetic.motion import HOW
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, save_classifier

CLIP = ClipSettings(frames=4, stride_frames=3, size_px=48)
SHAPE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 12}


def classifier(**more: Any) -> Classifier:
    """Weights of a seed, and a head that tells classes apart."""
    model = mvd_ds.build_classifier(SHAPE, len(HOW), CLIP.frames, CLIP.size_px, **more).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return model


def write_classifier(folder: Path, **more: Any) -> Path:
    """The folder of ``classifier``."""
    model = classifier(**more)
    card = ClassifierCard(tuple(HOW), PreprocessingSettings(clip=CLIP), "how")
    save_classifier(folder, model, model.state_dict(), card, {})
    return folder
