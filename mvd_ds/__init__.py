"""This package trains large video models by Masked Video Distillation under DeepSpeed.

The map of the package, from the ground up:

====================  =================================================================================================
``files``             files that are written whole or not at all, text of outside names, ``ConfigError``
``config``            the typed tree of settings; ``recipes`` holds one run per file
``data``              from a line of a manifest to a uint8 clip with its masks: ``manifests``, ``readers``, ``workers``,
                      ``augmentation``; ``prepare`` and ``synthetic`` write videos
``models``            plain ``nn.Module``s: encoder, student, teachers, heads; ``formats`` reads and writes published
                      weights, ``acceleration`` compiles, replays and rounds to FP8
``objectives``        targets and losses
``training``          loop, schedule, ``checkpoint``, ``reporting``, ``liveness``, ``nonfinite``; ``engine`` is the only
                      place that knows DeepSpeed
``evaluation``        accuracy, predictions over views, frozen features and probes
``runs``              one file per command that needs data or a cluster: it builds the parts and hands them on
``tools``             commands beside a training: ``plan``, ``doctor``, ``launch``, ``report``, ``bench``, export, convert, ...
``api``               models from Python: build, load, call, train, export; its names are those of this package too
``video_classifier``  from a video file to names of classes: ``mvd_ds.load(FOLDER)`` opens one
``mteb_encoder``      an encoder as ``mteb.evaluate`` takes it for tasks of videos
``cli``               ``python -m mvd_ds COMMAND RECIPE [key=value ...]``
====================  =================================================================================================

The axis alphabet, one meaning everywhere: ``B`` clips, ``K`` masks per clip, ``C`` channels, ``T H W`` frames and
pixels, ``t h w`` token grid, ``N = t*h*w`` tokens, ``V`` visible, ``M`` masked (V + M = N), ``D`` width, ``heads``,
``d`` head width. ``mask`` is bool and **True = masked**, everywhere.
"""

from typing import Any

from mvd_ds.files import ConfigError as ConfigError

__version__ = "0.1.0"

#: Names of ``mvd_ds.api`` that are names of the package too.
API = (
    "VideoClassifier",
    "VideoEncoder",
    "build_classifier",
    "build_encoder",
    "build_student",
    "build_teacher",
    "distillation_loss",
    "draw_masks",
    "export",
    "export_gradients",
    "load",
    "mteb_model",
    "normalise",
    "open_model",
    "read_checkpoint",
    "read_clip",
    "read_features",
    "relation_loss",
    "save",
    "train",
)
__all__ = ("ConfigError", *API)


def __getattr__(name: str) -> Any:
    """Import a name of ``api`` on its first use, so that ``import mvd_ds`` does not import torch."""
    if name not in API:
        raise AttributeError(f"module 'mvd_ds' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module("mvd_ds.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *API]
