"""Variables and arguments reach remote ranks unchanged, through DeepSpeed's quoting, pdsh's percent signs and a shell."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
from deepspeed.launcher.multinode_runner import PDSHRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mvd_ds.config import ConfigError
from mvd_ds.tools.launch.environment import deepspeed_env, pdsh_argument, read_settings

HARD = [
    *("a b", 'a"b c', "a'b", "$HOME", "$HOME x", "`id`", "a\b", "a\ b", "50%n", "%%h x", "[1,2]", "*", "~", "", "é"),
    *("a;b", "a&b|c>d", "#", "a#b c"),
]


def through_pdsh(arguments: list[str], variables: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """What a remote rank sees: DeepSpeed's own command builder, pdsh's replacement of %, and the login shell."""
    options = argparse.Namespace(
        user_args=[pdsh_argument(argument) for argument in arguments], user_script="mvd_ds", ssh_port=None
    )
    options.__dict__ |= {"launcher_args": "", "master_addr": "a", "master_port": 1, "venv_script": None, "save_pid": False}
    options.__dict__ |= {"no_python": False, "module": True, "no_local_rank": False, "enable_each_rank_log": None}
    runner = PDSHRunner(options, "e30=")
    for line in deepspeed_env(variables).splitlines():
        runner.add_export(*line.split("=", maxsplit=1))
    command, _, _ = runner.get_cmd({}, {"host": [0]})
    shell = " ".join(command[command.index("host") + 1 :])
    shell = re.sub(r"%(.)", lambda found: {"%": "%", "n": "0", "h": "host"}.get(found[1], found[0]), shell)
    rank = "import os, sys; print(repr((sys.argv[1:], dict(os.environ))))"
    shell = re.sub(
        rf"{re.escape(sys.executable)} -u -m deepspeed.launcher.launch .*?mvd_ds", f"{sys.executable} -c '{rank}'", shell
    )
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    return eval(done.stdout)


def test_hard_arguments_and_values_arrive() -> None:
    variables = {f"MVD_DS_{number}": value for number, value in enumerate(HARD)}
    seen, environment = through_pdsh(HARD, variables)
    assert seen == HARD
    assert {name: environment[name] for name in variables} == {name: value.strip() for name, value in variables.items()}


def test_line_breaks_and_tabs_in_arguments_arrive() -> None:
    hard = ["a\nb", "a \n #b", "x=\t", "run.output=runs/run #1", 'run.output="runs/run\n#1"']
    assert through_pdsh(hard, {})[0] == hard


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126)), min_size=1, max_size=8))
def test_any_printable_argument_arrives(arguments: list[str]) -> None:
    assert through_pdsh(arguments, {})[0] == arguments


def test_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigError, match="MVD_DS_X holds a line break"):
        deepspeed_env({"MVD_DS_X": "a\nb"})


def test_the_users_own_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".deepspeed_env").write_text("NCCL_DEBUG=INFO\n\n# no comment that DeepSpeed would take\n")
    assert deepspeed_env({"NCCL_DEBUG": "WARN"}).splitlines()[-1] == "NCCL_DEBUG=INFO"


def test_settings_have_comments_and_faults_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.env"
    path.write_text("# why\n\nA=1   # because\nB=^lo,docker0\nC=a#b\n")
    assert read_settings(path) == {"A": "1", "B": "^lo,docker0", "C": "a#b"}
    path.write_text("A=1\nB 2\n")
    with pytest.raises(ConfigError, match=r"x\.env:2: 'B 2' is not KEY=VALUE"):
        read_settings(path)


def test_every_shipped_setting_has_its_reason() -> None:
    lines = (Path(__file__).resolve().parents[3] / "launchers" / "nccl.env").read_text().splitlines()
    given = [line for line in lines if line and not line.startswith("#")]
    assert given and all(re.fullmatch(r"[A-Z_]+=\S+\s+# .{20,}", line) for line in given)
