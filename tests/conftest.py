"""Fixtures that several rooms' tests share: real videos, and teachers with known random weights."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from launching import launch
from mvd_ds.config import TrainingRecipe
from mvd_ds.data.synthetic.writer import write_sample_set
from shrinking import RECIPE, shrink, write_teachers

os.environ.setdefault("DS_ACCELERATOR", "cpu" if not torch.cuda.is_available() else "cuda")
torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Two workers: one takes files that start trainings, one after another, since each fills two cores; the other the rest."""
    from xdist.scheduler import LoadScopeScheduling

    class LaunchesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "launches" if "pytest.mark.launch" in (config.rootpath / file).read_text() else file

    return LaunchesTogether(config, log)


@pytest.fixture(autouse=True)
def _log_is_as_in_a_new_process() -> None:
    """Undo what tests before left behind: a command run as a later rank says little, libraries silence others."""
    logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    for handler in logging.root.handlers:
        handler.setLevel(logging.NOTSET)
    logging.getLogger("mvd_ds").setLevel(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("mvd_ds") and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample set of H.264 files: train.txt (64 clips) and val.txt (16)."""
    folder = tmp_path_factory.mktemp("sample") / "videos"
    write_sample_set(folder, train_clips=64, validation_clips=16, seed=1, size_px=48, frames=16, workers=2)
    return folder


@pytest.fixture(scope="session")
def shrunk(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that shrink ``mvd_large_from_large_400ep`` to seconds, with teachers' weights on disk."""
    folder = tmp_path_factory.mktemp("teachers")
    overrides = shrink(videos, folder)
    write_teachers(overrides, folder)
    return overrides


@pytest.fixture(scope="session")
def shrunk_recipe(shrunk: list[str]) -> TrainingRecipe:
    from shrinking import shipped

    return shipped(shrunk)


@pytest.fixture(scope="session")
def two_processes(shrunk: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the shrunk recipe on one host: two processes, the recipe's own ZeRO-3, sharded teachers, an average."""
    folder = tmp_path_factory.mktemp("zero3") / "run"
    launch(2, "distill", RECIPE, *shrunk, "optimizer.ema_decay=0.9", f"run.output={folder}")
    return folder
