"""The threads of a process: half of its cores, whatever the loader does, unless somebody has chosen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from mvd_ds.training import threads


@pytest.mark.parametrize(
    ("cores", "processes", "expected"), [(1, 1, 1), (2, 1, 1), (2, 2, 1), (8, 1, 4), (8, 2, 2), (96, 8, 6), (4, 8, 1)]
)
def test_a_process_takes_half_of_its_share(cores: int, processes: int, expected: int) -> None:
    assert threads.share_of_cores(cores, processes) == expected


def test_two_hyper_threads_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(threads, "TOPOLOGY", tmp_path)
    assert threads.physical_cores() == 4, "without Linux's topology each counts"
    for number, (package, core) in enumerate([(0, 0), (0, 1), (0, 0), (1, 0)]):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{package}\n")
        (folder / "core_id").write_text(f"{core}\n")
    assert threads.physical_cores() == 3


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(threads, "physical_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    threads.choose_threads(1, is_cpu=True)
    assert not chosen and capsys.readouterr().out == ""
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.choose_threads(2, is_cpu=True)
    said = "each process computes with 2 threads of 8 cores; the loader has the rest; OMP_NUM_THREADS sets another number\n"
    assert chosen == [2] and capsys.readouterr().out == said
    threads.choose_threads(2, is_cpu=False)
    assert chosen == [2, 2] and capsys.readouterr().out == ""
