"""Every script prints with --dry-run exactly what it would start, and answers a wrong use in one line."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from launching import ROOT, cpu_environment

LAUNCHERS = ROOT / "launchers"
DATA = tempfile.TemporaryDirectory()
Path(DATA.name, "a.mp4").touch()
Path(DATA.name, "train.txt").write_text("a.mp4 0\n")
RUN = ["distill", "mvd_base_from_base", f"data.manifest={DATA.name}/train.txt"]
RUN += ["teachers.image.weights=random", "teachers.video.weights=random"]
#: What another scheduler sets, or torch in the process of the tests when it compiles.
SCHEDULERS = ("SLURM_", "OMPI_", "MASTER_", "PBS_", "LSB_", "CUDA_VISIBLE", "TORCHINDUCTOR_", "TRITON_", "TORCH_EXTENSIONS_")


def script(name: str, *arguments: str, environment: dict[str, str] | None = None, cwd: Path = ROOT) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a script."""
    inherited = {key: value for key, value in cpu_environment().items() if not key.startswith(SCHEDULERS)}
    done = subprocess.run(
        ["bash", str(LAUNCHERS / name), *arguments],
        env=inherited | (environment or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def started(output: str) -> list[str]:
    """The command of a dry run, as words."""
    return shlex.split(output.splitlines()[-1])


def test_one_host(tmp_path: Path) -> None:
    code, output, _ = script("train.sh", "--dry-run", "--processes", "2", *RUN, f"run.output={tmp_path}")
    command = started(output)
    assert code == 0 and Path(command[0]).name == "deepspeed" and command[-1] == f"run.output={tmp_path}"
    assert command[command.index("--num_accelerators") + 1] == "2"
    for name in ("TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert f"export {name}=/" in output
    assert "export DEEPSPEED_TIMEOUT=10\n" in output, "DeepSpeed reads whole minutes only"
    assert "export TORCH_NCCL_ASYNC_ERROR_HANDLING=3" in output and "export MVD_DS_LAUNCH=" in output
    assert list(tmp_path.iterdir()) == [], "a dry run writes nothing"


def test_what_the_user_has_set_stays() -> None:
    mine = {"NCCL_DEBUG": "INFO", "TRITON_CACHE_DIR": "/mine", "OMP_NUM_THREADS": "7"}
    _, output, _ = script("train.sh", "--dry-run", *RUN, environment=mine)
    assert not any(f"export {name}=" in output for name in mine)


def test_visible_devices_are_kept() -> None:
    _, output, _ = script("train.sh", "--dry-run", "--processes", "1", *RUN, environment={"CUDA_VISIBLE_DEVICES": "2,3"})
    assert "--include localhost:2 " in output
    code, _, errors = script("train.sh", "--processes", "3", *RUN, environment={"CUDA_VISIBLE_DEVICES": "2,3"})
    assert code == 2 and "--processes 3 is more than the 2 devices" in errors


def test_hosts_through_pdsh(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pdsh").symlink_to("/bin/true")
    (tmp_path / "hosts").write_text("a slots=8\n# b is away\nc slots=8\n")
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "MVD_DS_EXTRA": "x y", "SECRET_TOKEN": "hush"}
    code, output, _ = script("hostfile.sh", str(tmp_path / "hosts"), "--dry-run", *RUN, environment=path)
    command = started(output)
    assert code == 0 and "--force_multi" in command
    assert "#   a slots=8\n#   c slots=8\n" in output, "the hostfile that deepspeed gets"
    assert "#   MVD_DS_EXTRA=x y" in output and "#   NCCL_DEBUG=WARN" in output, "and the variables that hosts get"
    assert "SECRET_TOKEN" not in output
    assert "ServerAliveCountMax=42" in output, "10 minutes of collectives and half a minute"


def test_pdsh_missing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("a slots=8\n")
    for name in ("bash", "python", "dirname", "basename", "sed"):
        (tmp_path / name).symlink_to(shutil.which(name) or "/bin/false")
    output = f"run.output={tmp_path}"
    code, _, errors = script("hostfile.sh", str(tmp_path / "hosts"), *RUN, output, environment={"PATH": str(tmp_path)})
    assert code == 2 and errors == "mvd_ds: launch --hostfile: pdsh is missing; on Debian or Ubuntu: sudo apt-get install pdsh\n"
    code, command, _ = script(
        "hostfile.sh", str(tmp_path / "hosts"), "--dry-run", *RUN, output, environment={"PATH": str(tmp_path)}
    )
    assert code == 0 and "--hostfile" in command, "what would be started is shown without it"


def test_one_node_of_several(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("a slots=8\nb slots=8\n")
    code, output, _ = script("node.sh", "1", str(tmp_path / "hosts"), "--dry-run", *RUN, environment={"SLURM_JOB_ID": "12"})
    command = started(output)
    assert code == 0 and "--no_ssh" in command
    assert command[command.index("--node_rank") + 1] == "1" and command[command.index("--master_addr") + 1] == "a"
    code, _, errors = script("node.sh", "2", str(tmp_path / "hosts"), "--port", "5", *RUN)
    assert code == 2 and "--node-rank 2 is outside the 2 lines" in errors
    code, _, errors = script("node.sh", "1", str(tmp_path / "hosts"), "--dry-run", *RUN)
    assert code == 2 and "nodes must agree on a port" in errors


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "5"},
        {
            "OMPI_COMM_WORLD_RANK": "3",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "OMPI_COMM_WORLD_SIZE": "4",
            "MASTER_ADDR": "a",
            "MASTER_PORT": "5",
        },
    ],
    ids=["torchrun", "Open MPI"],
)
def test_one_rank_of_another_scheduler(environment: dict[str, str]) -> None:
    code, output, _ = script("ranks.sh", "--dry-run", *RUN, environment=environment)
    assert code == 0 and started(output)[1:] == ["-u", "-m", "mvd_ds", *RUN]
    code, _, errors = script("ranks.sh", "--dry-run", *RUN)
    assert code == 2 and "not set: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT" in errors


def slurm(tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """slurm.sbatch inside a job of two nodes, with a scontrol that knows them."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho n1; echo n2\n")
    scontrol.chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_GPUS_ON_NODE": "8"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return script("slurm.sbatch", *arguments, environment=job | path | environment)


def test_slurm_starts_one_launcher_a_node(tmp_path: Path) -> None:
    code, output, _ = slurm(tmp_path, "--dry-run", *RUN)
    command = started(output)
    assert code == 0 and command[0] == "srun" and "--kill-on-bad-exit=1" in command and "--nodelist=n1,n2" in command
    inner = shlex.split(command[-1])
    assert inner[0] == "exec" and Path(inner[1]).name == "deepspeed" and "--no_ssh" in inner
    assert inner[inner.index("--node_rank") + 1] == "$SLURM_NODEID" and inner[inner.index("--master_addr") + 1] == "n1"
    assert "#   n1 slots=8\n#   n2 slots=8\n" in output


def test_slurm_arrays_have_a_folder_each(tmp_path: Path) -> None:
    seeds = ["run.seed={seed}", "run.output=runs/x-{seed}"]
    code, output, _ = slurm(tmp_path, "--dry-run", *RUN, *seeds, SLURM_ARRAY_TASK_ID="3")
    assert code == 0 and "run.seed=3 run.output=runs/x-3" in output
    code, _, errors = slurm(tmp_path, "--dry-run", *RUN, "run.seed={seed}", SLURM_ARRAY_TASK_ID="3")
    assert code == 2 and "the tasks of a job array would share one folder" in errors


def test_slurm_prepares_a_part_in_each_task_and_joins_in_the_end(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\ncase "$1" in -c) exit 0;; esac\necho "$@"\n')
    python.chmod(0o755)
    job = {"MVD_DS_VENV": str(tmp_path), "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_CPUS_ON_NODE": "16"}
    task = {**job, "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MAX": "64"}
    prepared = "-m mvd_ds prepare --workers 16 LIST OUT --shards"
    given = ("LIST", "OUT", "--shards")
    assert script("prepare.sbatch", *given, environment=task)[:2] == (0, f"{prepared} --part 7/64\n")
    again = {**task, "SLURM_ARRAY_TASK_MAX": "12", "SLURM_ARRAY_TASK_COUNT": "2"}
    code, output, errors = script("prepare.sbatch", *given, environment=again)
    assert code == 2 and output == "" and "the array is not 1-N: say --part-of N" in errors
    assert script("prepare.sbatch", "--part-of", "64", *given, environment=again)[1] == f"{prepared} --part 7/64\n"
    assert script("prepare.sbatch", *given, "--join", environment=job)[1] == f"{prepared} --join\n"
    code, output, errors = script("prepare.sbatch", *given, environment=job)
    assert code == 2 and output == "" and errors.count("\n") == 1 and "is no task of a job array" in errors


def test_slurm_outside_of_a_job_is_one_line() -> None:
    code, output, errors = script("slurm.sbatch", *RUN)
    assert code == 2 and output == "" and errors.count("\n") == 1 and "submit it: sbatch launchers/slurm.sbatch" in errors


def test_slurm_shows_a_dry_run_outside_of_a_job() -> None:
    code, output, errors = script("slurm.sbatch", "--dry-run", "--processes", "4", *RUN)
    assert code == 0 and started(output)[0] == "srun" and "#   NODE slots=4\n" in output and "no SLURM job here" in errors
    _, output, errors = script("slurm.sbatch", "--dry-run", *RUN)
    assert "slots=8\n" in output and "NODE with 8 GPUs, which is assumed" in errors
    code, _, errors = script("train.sh", "--slurm", *RUN)
    assert code == 2 and "start it inside a job" in errors


def test_a_dry_run_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow.txt").write_text("nowhere.mp4 0\n")
    settings = [f"teachers.image.weights={tmp_path}/empty", "teachers.video.weights=gone", "engine.config=zero9.json"]
    code, output, errors = script("train.sh", "--dry-run", *RUN, "data.manifest=gone.txt", *settings)
    assert code == 2 and "deepspeed" in output, "the command is shown all the same"
    lines = [line for line in errors.splitlines() if line.startswith("launch: missing: ")]
    assert len(lines) == 4 == errors.count("\n")
    for part in (
        "data.manifest: gone.txt is not there",
        "empty is an empty folder",
        "teachers.video.weights: gone",
        "zero9.json",
    ):
        assert any(part in line for line in lines)
    code, _, errors = script("train.sh", "--dry-run", *RUN, f"data.manifest={tmp_path}/hollow.txt")
    assert code == 2 and "launch: missing: data: " in errors and "hollow.txt" in errors


@pytest.mark.parametrize("command", ["evaluate evaluate_5x3", "features features", "finetune finetune_ucf101"])
def test_commands_that_use_all_processes_are_launched(command: str) -> None:
    data = [f"data.manifest={DATA.name}/train.txt", f"weights={DATA.name}/a.mp4"]
    data += [f"validation.manifest={DATA.name}/train.txt"] if command.startswith("finetune") else []
    _, output, errors = script("train.sh", "--dry-run", "--processes", "2", *command.split(), *data)
    command_line = started(output)
    assert command_line[command_line.index("--num_accelerators") + 1] == "2"
    assert command.split() == command_line[command_line.index("mvd_ds") + 1 :][:2] and "is an empty file" in errors


def test_a_probe_is_launched_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("a slots=8\n")
    _, output, _ = script("train.sh", "--dry-run", "probe", "quickstart_probe")
    command = started(output)
    assert command[command.index("--num_accelerators") + 1] == "1"
    for options in (["--processes", "2"], ["--hostfile", str(tmp_path / "hosts")]):
        code, _, errors = script("train.sh", "--dry-run", *options, "probe", "quickstart_probe")
        assert code == 2 and "probe runs in one process" in errors


def test_slurm_options_are_those_promised() -> None:
    text = (LAUNCHERS / "slurm.sbatch").read_text()
    for option in ("--signal=B:USR1@300", "--requeue", "--open-mode=append", "--ntasks-per-node=1"):
        assert f"\n#SBATCH {option}\n" in text


def test_faults_of_the_recipe_come_before_any_launch() -> None:
    code, output, errors = script("train.sh", "distill", "mvd_base_from_base", "batch.mikro=3")
    assert code == 2 and output == "" and "batch.mikro" in errors and "Traceback" not in errors


@pytest.mark.parametrize("name", ["train.sh", "hostfile.sh", "node.sh", "ranks.sh", "test.sh"])
def test_every_script_explains_itself(name: str) -> None:
    code, output, errors = script(name, "--help")
    assert code == 0 and f"bash launchers/{name}" in output and "#" not in output and errors == ""


def test_a_python_without_the_environment_is_told_how_to_get_it() -> None:
    """``-S`` hides the installed packages."""
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-S", "-m", "mvd_ds", "recipes"]
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "source .venv/bin/activate" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quickstrat", "x"], "finetune_demo: unknown option --quickstrat; there are --quickstart DIR, --output DIR"),
        (["--output"], "finetune_demo: --output needs a value"),
    ],
)
def test_the_fine_tuning_demo_refuses_a_wrong_use_before_it_starts(arguments: list[str], words: str) -> None:
    code, output, fault = script("finetune_demo.sh", *arguments)
    assert (code, output) == (2, "") and fault.startswith(words) and len(fault.splitlines()) == 1
    code, output, _ = script("finetune_demo.sh", "--help")
    assert code == 0 and output.startswith("Measures what distillation is worth") and "key=value replaces" in output


def test_what_scripts_import_from_the_package_is_there() -> None:
    found = [
        line.split()[1::2]
        for script in sorted(LAUNCHERS.glob("*.sh"))
        for line in script.read_text().replace(", ", ",").splitlines()
        if re.fullmatch(r"from mvd_ds\S* import \S+", line)
    ]
    assert ["mvd_ds.runs.probing.probe_splits", "require_labels"] in found
    for module, names in found:
        assert all(hasattr(importlib.import_module(module), name) for name in names.split(",")), (module, names)
