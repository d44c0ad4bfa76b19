"""mvd_ds trains large video models by Masked Video Distillation at DeepSpeed scale.

The map of the house:

====================  =================================================================================
``config``            the typed tree of settings
``cli``               ``python -m mvd_ds COMMAND RECIPE [key=value ...]``
``api``               models from Python: build, load, call, export; its names are those of this package too
``data``              from a line of a manifest to a uint8 clip with its masks
``models``            plain ``nn.Module``s: encoder, student, teachers, and their weights
``objectives``        targets and losses
``training``          loop, schedule, checkpoints; ``training.engine`` is the window onto the cluster
``evaluation``        accuracy, predictions over views, frozen features and probes
``video_classifier``  from a video file to names of classes: what ``mvd_ds.load(FOLDER)`` opens
``runs``              one file per command: builds the parts and hands them on
``tools``             what reads finished runs and converts weights
====================  =================================================================================

The axis alphabet, one meaning everywhere: ``B`` clips, ``K`` masks per clip, ``C`` channels, ``T H W`` frames and
pixels, ``t h w`` token grid, ``N = t*h*w`` tokens, ``V`` visible, ``M`` masked (V + M = N), ``D`` width, ``heads``,
``d`` head width. ``mask`` is bool and **True = masked**, everywhere.
"""

from typing import Any

__version__ = "0.1.0"

#: Names of ``mvd_ds.api`` that are names of the package too.
API = (
    "build_classifier",
    "build_encoder",
    "build_student",
    "build_teacher",
    "distillation_loss",
    "export",
    "export_gradients",
    "load",
    "open_model",
    "read_checkpoint",
    "read_features",
    "save",
)


def __getattr__(name: str) -> Any:
    """Names of ``api`` on first use, so that ``import mvd_ds`` does not import torch."""
    if name not in API:
        raise AttributeError(f"module 'mvd_ds' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module("mvd_ds.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *API]
