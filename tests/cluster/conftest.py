"""Two hosts on one machine, where the machine allows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import slurm
from cluster.debian import Unavailable, unpacked
from cluster.machines import Machine, Switch, write_etc

NAMES = ("mvd-a", "mvd-b")
PACKAGES = ["pdsh", "openssh-server", "openssh-client", "iproute2", "hostname", *slurm.PACKAGES]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return unpacked(PACKAGES, tmp_path_factory.mktemp("debian"))
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def two_hosts(packages: Path, tmp_path: Path) -> Iterator[list[Machine]]:
    """mvd-a and mvd-b, each with an address, sshd, pdsh, what SLURM needs, and all files of this machine."""
    machines: list[Machine] = []
    try:
        etc = write_etc(tmp_path / "etc", packages, NAMES)
        slurm.prepare(packages, etc, tmp_path / "slurm", NAMES)
        switch = Switch()
        try:
            machines.extend(Machine(name, number, switch, packages, etc) for number, name in enumerate(NAMES, 1))
            yield machines
        finally:
            for machine in machines:
                machine.close()
            switch.close()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    """Both hosts with one process each."""
    path = tmp_path / "hosts"
    path.write_text("".join(f"{name} slots=1\n" for name in NAMES))
    return path


@pytest.fixture
def cluster(two_hosts: list[Machine], tmp_path: Path) -> slurm.Slurm:
    """SLURM on both hosts."""
    try:
        return slurm.Slurm(two_hosts, tmp_path / "slurm")
    except Unavailable as reason:
        pytest.skip(str(reason))
