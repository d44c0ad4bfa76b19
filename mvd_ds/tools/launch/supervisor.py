"""The supervisor of a launch: attempt follows attempt until the run is finished, told to stop, or out of restarts."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mvd_ds.config import ConfigError, LearningRecipe, ProbeRecipe, Recipe, find_recipe, load_recipe
from mvd_ds.config.inputs import missing_inputs
from mvd_ds.data.manifests.mixture import read_mixture
from mvd_ds.tools.launch import remote
from mvd_ds.tools.launch.attempt import Ended, LaunchAttempt, end_launch
from mvd_ds.tools.launch.command import VARIABLES_FILE, Start, as_shell, build_start
from mvd_ds.tools.launch.environment import added_environment
from mvd_ds.tools.launch.guard import Guard
from mvd_ds.tools.launch.hosts import Host, admissible, read_hosts, slurm_hosts
from mvd_ds.tools.launch.judgement import USER_FAULT, Standing, judge
from mvd_ds.tools.launch.launch_options import LaunchOptions
from mvd_ds.tools.launch.rank_logs import last_words
from mvd_ds.tools.launch.stop import StopSignals
from mvd_ds.training.run_folder import FAILED, FINISHED, PREEMPTED, RunFolder

MOST_BACKOFF_SECONDS = 300.0
#: Time after which NFS shows a renamed file to other hosts, by default (acdirmin).
VISIBLE_SECONDS = 30.0
MEANING = {FINISHED: "finished", FAILED: "failed", USER_FAULT: "refused", PREEMPTED: "preempted"}


def launch(options: LaunchOptions) -> int:
    """Run the recipe to its end and return the exit code: 0 finished, 75 start it again, 2 mend something first, 1 failed.

    Raises:
        ConfigError: before anything is started.
    """
    recipe = load_recipe(options.recipe, list(options.overrides), options.command)
    if isinstance(recipe, ProbeRecipe):
        options = in_one_process(options)
    if not isinstance(recipe, LearningRecipe):
        # Only trainings listen for a request to save; the others lose nothing but the files that they have begun.
        options = replace(options, grace_seconds=min(options.grace_seconds, 1.0))
    run = RunFolder.of(recipe, find_recipe(options.recipe).stem).path.absolute()
    supervisor = Supervisor(options, recipe, run, _all_hosts(options))
    if options.dry_run:
        print(as_shell(supervisor.next_start(supervisor.chosen(supervisor.hosts))), flush=True)
        return _tell_missing(recipe)
    if options.mode == "hostfile" and not shutil.which("pdsh"):
        raise ConfigError("launch --hostfile: pdsh is missing; on Debian or Ubuntu: sudo apt-get install pdsh")
    if options.one_rank:
        start = supervisor.next_start([])
        os.execvpe(start.command[0], start.command, os.environ | start.environment)
    # The launcher takes many seconds before the ranks could say so; a finished run needs nothing any more.
    if Standing.of(run).state != "finished" and _tell_missing(recipe):
        return USER_FAULT
    return supervisor.run_attempts()


def in_one_process(options: LaunchOptions) -> LaunchOptions:
    """Return ``options`` for a command that is not distributed.

    Raises:
        ConfigError: if several processes were asked for.
    """
    if options.mode not in ("local", "rank") or (options.processes or 1) > 1:
        raise ConfigError(f"launch: {options.command} runs in one process on this host; leave out hosts and --processes")
    return replace(options, processes=1) if options.mode == "local" else options


def _tell_missing(recipe: Recipe) -> int:
    """Say what the recipe needs and this host lacks; return the exit code for it, which is 0 if it lacks nothing."""
    missing = missing_inputs(recipe)
    if not any("manifest" in line for line in missing):
        try:
            read_mixture(recipe.data)
        except ConfigError as error:
            missing += [f"data: {line}" for line in str(error).splitlines()]
    for line in missing:
        print(f"launch: missing: {line}", file=sys.stderr, flush=True)
    return USER_FAULT if missing else FINISHED


def _all_hosts(options: LaunchOptions) -> list[Host]:
    if options.slurm:
        return slurm_hosts(options.processes, options.dry_run)
    if options.hostfile is None:
        return []
    hosts = read_hosts(options.hostfile)
    if options.node_rank is not None and not 0 <= options.node_rank < len(hosts):
        raise ConfigError(f"launch: --node-rank {options.node_rank} is outside the {len(hosts)} lines of {options.hostfile}")
    return hosts


@dataclass
class Supervisor:
    """The attempts of one launch of one run."""

    options: LaunchOptions
    recipe: Recipe
    run: Path
    hosts: list[Host]
    """All given hosts; each attempt takes the healthy ones among them."""
    attempt: int = field(init=False)

    def __post_init__(self) -> None:
        name = "launch" if self.options.node_rank is None else f"launch/node-{self.options.node_rank}"
        self.folder = self.run / name
        self.attempt = _lines(self.folder / "attempts.jsonl") + 1

    def run_attempts(self) -> int:
        """Run attempts until the end, and return the exit code as ``launch`` does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        failures, outcome = 0, FAILED
        hosts: list[Host] | None = self.chosen(self.hosts)
        with Guard(self._end_everything), StopSignals() as stop:
            while hosts is not None and not stop.asked:
                before = Standing.of(self.run)
                outcome = self._one(hosts, stop, before)
                if outcome != FAILED or stop.asked:
                    break
                saved = Standing.of(self.run).checkpoint != before.checkpoint
                failures = 1 if saved else failures + 1
                if failures > self.options.restarts:
                    self.say(f"{failures} attempts in a row without a new checkpoint: giving up; --restarts allows more")
                    return FAILED
                self._back_off(failures, stop)
                hosts = self._healthy()
            return self._exit_code(outcome, stop)

    def _end_everything(self) -> None:
        """End all processes of a killed supervisor, and remove the file that is for this user's eyes alone."""
        (self.folder / VARIABLES_FILE).unlink(missing_ok=True)
        end_launch(self.options, self.hosts)

    def _exit_code(self, outcome: int, stop: StopSignals) -> int:
        """Return the exit code, and put a SLURM job near its time limit back into the queue."""
        if outcome == FAILED and stop.asked:
            outcome = PREEMPTED
        if outcome == PREEMPTED:
            self.say("the run is not finished; the same command goes on from its last checkpoint")
        if outcome == PREEMPTED and self.options.slurm and stop.first == "SIGUSR1":
            job = os.environ["SLURM_JOB_ID"]
            self.say(f"requeueing SLURM job {job}")
            subprocess.run(["scontrol", "requeue", job], check=False)
        return outcome

    def _one(self, hosts: list[Host], stop: StopSignals, before: Standing) -> int:
        start = self.next_start(hosts)
        began = time.time()
        where = ", ".join(host.name for host in hosts) or "this host"
        self.say(f"attempt {self.attempt} on {where}")
        ended = LaunchAttempt(start, self.options, hosts, RunFolder(self.run), stop, self.say).run()
        outcome = judge(ended.code, before, self._standing(before, ended), ended.survivors)
        self._record(start, hosts, began, ended, outcome)
        if outcome in (FAILED, USER_FAULT) and (words := last_words(self.run, began)):
            print(words, file=sys.stderr, flush=True)
        step = Standing.of(self.run).step
        self.say(f"attempt {self.attempt} {MEANING[outcome]} at step {step} (launcher's exit code {ended.code})")
        self.attempt += 1
        return outcome

    def _standing(self, before: Standing, ended: Ended) -> Standing:
        """Return the standing after an attempt; a shared file system may take a while to show a good end on another host."""
        deadline = time.monotonic() + VISIBLE_SECONDS
        while True:
            after = Standing.of(self.run)
            seen = after.changed != before.changed and after.state != "running"
            if seen or not self.hosts or ended.code or ended.survivors or time.monotonic() > deadline:
                return after
            time.sleep(0.5)

    def next_start(self, hosts: list[Host]) -> Start:
        """Return the start of the next attempt on ``hosts``."""
        environment = added_environment(self.options, self.recipe)
        port = self.options.rendezvous_port(self.attempt)
        if self.options.mode == "local" or self.options.node_rank == 0:
            port = usable_port(port, changeable=self.options.mode == "local" and self.options.port is None)
        return build_start(self.options, hosts, port, environment, self.folder)

    def chosen(self, healthy: list[Host]) -> list[Host]:
        """Return as many of ``healthy`` as divide the global batch, and name the idle ones; an empty list means this host.

        Raises:
            ConfigError: if no number of them does.
        """
        if not healthy or self.options.mode == "node" or not isinstance(self.recipe, LearningRecipe):
            return healthy
        hosts = admissible(healthy, self.recipe)
        if not hosts:
            batch = self.recipe.batch
            raise ConfigError(
                f"batch.global {batch.global_} is not divisible by batch.micro {batch.micro} x the processes of any number of "
                f"these hosts: {', '.join(map(str, healthy))}; choose another batch.micro"
            )
        if idle := healthy[len(hosts) :]:
            names = ", ".join(host.name for host in idle)
            self.say(f"idle, because they do not divide batch.global {self.recipe.batch.global_}: {names}")
        return hosts

    def _healthy(self) -> list[Host] | None:
        """Return the hosts of the next attempt, None if too few are left."""
        if self.options.mode != "hostfile" or not self.options.check_hosts:
            return self.chosen(self.hosts)
        sick = remote.sick_hosts(self.hosts, self.run, self.folder)
        for name, reason in sick.items():
            self.say(f"left out: {name} ({reason})")
        healthy = [host for host in self.hosts if host.name not in sick]
        if len(healthy) < max(self.options.min_hosts, 1):
            self.say(f"{len(healthy)} healthy hosts are fewer than --min-hosts {self.options.min_hosts}: giving up")
            return None
        return self.chosen(healthy)

    def _back_off(self, failures: int, stop: StopSignals) -> None:
        seconds = min(self.options.backoff_seconds * 2 ** (failures - 1), MOST_BACKOFF_SECONDS)
        self.say(f"restart {failures} of {self.options.restarts} in {seconds:g} s")
        stop.sleep(seconds)

    def say(self, text: str) -> None:
        """Print a line on standard error, and write it with the time to the launch's log."""
        print(f"launch: {text}", file=sys.stderr, flush=True)
        if self.folder.exists():
            with open(self.folder / "log", "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def _record(self, start: Start, hosts: list[Host], began: float, ended: Ended, outcome: int) -> None:
        values: dict[str, Any] = {
            "attempt": self.attempt,
            "began": round(began, 1),
            "seconds": round(time.time() - began, 1),
            "hosts": [str(host) for host in hosts],
            "command": start.command,
            "exit_code": ended.code,
            "survivors": ended.survivors,
            "outcome": MEANING[outcome],
        }
        with open(self.folder / "attempts.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def usable_port(port: int, changeable: bool) -> int:
    """Return ``port`` if nothing listens on it here, else, if it is ``changeable``, the next one that is free.

    Raises:
        ConfigError: if the port is taken and other nodes or the user count on it.
    """
    for candidate in range(port, port + 100 if changeable else port + 1):
        with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", candidate))
            except PermissionError:
                raise ConfigError(f"launch: port {candidate} may not be used by this user; choose --port from 1024 on") from None
            except OSError:
                continue
            return candidate
    raise ConfigError(f"launch: port {port} is taken on this host; choose another --port, the same on all nodes")


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
