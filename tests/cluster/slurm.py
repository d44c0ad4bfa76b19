"""A real SLURM on the hosts of ``machines``: munged and slurmd on each, slurmctld on the first."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.debian import Unavailable
from cluster.machines import Machine

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge"]
#: KillWait as a cluster would have it: so long a job that is preempted has between SIGTERM and SIGKILL. cred_expire: a
#: requeued job starts again after half of it and not after a minute.
CONFIG = """
ClusterName=mvd
SlurmctldHost={head}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=30
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def prepare(files: Path, etc: Path, folder: Path, names: Sequence[str]) -> None:
    """Write the configuration of hosts ``names``, and do what an installation would; before the hosts are switched on."""
    folder.mkdir()
    for name in ("state", *(f"spool-{name}" for name in names)):
        (folder / name).mkdir()
    nodes = "\n".join(f"NodeName={name} NodeAddr={name} CPUs={os.cpu_count()} State=UNKNOWN" for name in names)
    (etc / "slurm").mkdir()
    text = CONFIG.format(head=names[0], folder=folder, nodes=nodes, names=",".join(names))
    (etc / "slurm" / "slurm.conf").write_text(text)
    for program in ("slurmctld", "slurmd", "slurmstepd"):
        path = files / "usr" / "sbin" / program
        if not path.exists():
            path.symlink_to(f"{program}-wlm")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)


class Slurm:
    """Started on ``machines``, for which ``prepare`` was called; it ends with them."""

    def __init__(self, machines: Sequence[Machine], folder: Path) -> None:
        self.machines, self.folder = machines, folder
        key = folder / "munge.key"
        for machine in machines:
            files = {
                "key": key,
                "log": folder / f"munged-{machine.name}.log",
                "pid": "/run/munged.pid",
                "seed": "/run/munged.seed",
            }
            options = " ".join(f"--{name}-file={path}" for name, path in files.items())
            machine.run(f"mkdir -p /run/munge && chmod 755 /run/munge && munged --force {options}")
        machines[0].run("/usr/sbin/slurmctld")
        for machine in machines:
            machine.run("/usr/sbin/slurmd")
        self._wait_until_up()

    def run(self, *command: str, environment: dict[str, str] | None = None, folder: Path = Path("/")) -> str:
        """Output of a SLURM command on the first host.

        Raises:
            AssertionError: if it fails.
        """
        inside = self.machines[0].command(command, folder)
        done = subprocess.run(inside, capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says, by name."""
        words = self.run("scontrol", "show", "job", "--oneliner", job).split()
        return dict(word.partition("=")[::2] for word in words)

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            inside = self.machines[0].command(["sinfo", "--noheader", "--format=%T %D"], Path("/"))
            said = subprocess.run(inside, capture_output=True, text=True).stdout.split()
            if said == ["idle", str(len(self.machines))]:
                return
            time.sleep(0.5)
        logs = "".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log")))
        raise Unavailable(f"slurm does not come up: {said} {logs}")
