"""The tasks of labelled videos: what a label says of a video."""

from __future__ import annotations

from typing import Literal

TaskName = Literal["classes", "multilabel", "regression"]
"""classes: one class of each video (``path 3``); multilabel: any number of classes (``path 3,7,12``, ``path -`` for none);
regression: a real number (``path 0.37``)."""
CLASSES: TaskName = "classes"
