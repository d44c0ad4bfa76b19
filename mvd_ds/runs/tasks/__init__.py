"""The tasks of labelled videos: a file here for each, a row in ``TASKS``, and how its outputs are learnt and what they mean.

A new task is a file with a ``Task``, a row here, its loss in ``objectives.label_losses.LABEL_LOSSES`` and the meaning of its
outputs in ``models.classifiers.answers.ANSWERS``; ``finetune``, ``evaluate`` and the page of an evaluation find it by its name.
"""

from __future__ import annotations

from mvd_ds.runs.tasks.classes import OneClass
from mvd_ds.runs.tasks.multilabel import SeveralClasses
from mvd_ds.runs.tasks.regression import RealNumber
from mvd_ds.runs.tasks.task import Task

TASKS: dict[str, Task] = {"classes": OneClass(), "multilabel": SeveralClasses(), "regression": RealNumber()}
"""Every task by its name in the setting ``task`` and in the folder of a model."""
