"""Options of ``launch`` that are misspelt, out of range or contradict each other: one line, and nothing is started."""

from __future__ import annotations

import pytest

from mvd_ds.cli import main

FAULTS = [
    ("--dryrun", "--dryrun is unknown; did you mean '--dry-run'? (see mvd_ds launch --help)"),
    ("--proceses=2", "--proceses is unknown; did you mean '--processes'?"),
    ("--zzz", "--zzz is unknown (see"),
    ("--grace-seconds soon", "argument --grace-seconds: invalid float value: 'soon'"),
    ("--restarts -1", "launch: --restarts -1: it must be 0 or more"),
    ("--backoff-seconds nan", "launch: --backoff-seconds nan: it must be 0 or more"),
    ("--port 70000", "launch: --port 70000: it must be from 1 to 65535"),
    ("--processes 0", "launch: --processes 0: it must be from 1 to 1024"),
    ("--min-hosts 0", "launch: --min-hosts 0: it must be 1 or more"),
    ("--deepspeed '", "launch: --deepspeed ': No closing quotation"),
    ("--slurm run.seed={seed}", "only a job array fills in {seed}"),
    ("--slurm --hostfile x", "--slurm finds hosts and node ranks itself"),
    ("--node-rank 0", "--node-rank needs --hostfile"),
    ("--one-rank --processes 2", "--one-rank is for ranks that a scheduler starts"),
    ("--hostfile x --processes 2", "slots=N say how many processes a host has"),
    ("--hostfile nowhere", "--hostfile nowhere: cannot be read: No such file or directory"),
]


@pytest.mark.parametrize(("options", "line"), FAULTS, ids=[options for options, _ in FAULTS])
def test_a_fault_is_one_line(options: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for word in options.split() if word.startswith("run.")]
    flags = [word for word in options.split() if word not in settings]
    arguments = ["launch", "--dry-run", *flags, "distill", "mvd_base_from_base", *settings]
    try:
        code: object = main(arguments)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code == 2 and said.out == "" and said.err.count("\n") == 1
    assert line in said.err


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["launch", "distill"])
    assert capsys.readouterr().err == "mvd_ds launch: the following arguments are required: RECIPE (see mvd_ds launch --help)\n"
