"""The environment of the ranks, on this host and on others."""

from __future__ import annotations

import fnmatch
import getpass
import math
import os
import re
import sys
import tempfile
from pathlib import Path

from mvd_ds.config import EvaluateRecipe, FeaturesRecipe, LearningRecipe, Recipe
from mvd_ds.files import ConfigError, looks_like_credential
from mvd_ds.tools.launch.launch_options import LaunchOptions
from mvd_ds.tools.launch.processes import MARK
from mvd_ds.tools.launch.remote import ROOT, ssh_options

#: Variables that other hosts get if set: they change communication, compilation, threads or paths. DeepSpeed itself forwards only
#: names that begin with PYTHON, UCX, MV2 and MLFLOW, and with NCCL where there is a GPU.
FORWARDED = (
    *("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "TMPDIR", "MVD_DS_*", "PYTHON*", "DS_*", "DEEPSPEED_*", "OMP_*", "MKL_*"),
    *("NCCL_*", "GLOO_*", "UCX_*", "FI_*", "CUDA_*", "TORCH*", "PYTORCH_*", "TRITON_*"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_*", "TRANSFORMERS_OFFLINE"),
)
#: Variables that other hosts never get: DeepSpeed sets them there.
KEPT_HERE = ("CUDA_VISIBLE_DEVICES", "DS_ENV_FILE")
#: Beginnings of the names that DeepSpeed itself puts on the command lines of other hosts, where every user can read them.
EXPORTED_BY_DEEPSPEED = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
#: Caches of compiled kernels by variable. On a shared file system thousands of ranks lock and read the same small files.
CACHES = {
    "TORCH_EXTENSIONS_DIR": "extensions",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}


def read_settings(path: Path) -> dict[str, str]:
    """Return the KEY=VALUE lines of a file; empty lines and comments, also after a value, do not count.

    Raises:
        ConfigError: naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    values = {}
    for number, line in enumerate(lines, 1):
        text = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not text:
            continue
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigError(f"{path}:{number}: '{text}' is not KEY=VALUE without spaces around the equals sign")
        values[name] = value
    return values


def added_environment(options: LaunchOptions, recipe: Recipe) -> dict[str, str]:
    """Return the variables that a launch adds to its own environment; what the user has set stays."""
    values: dict[str, str] = {}
    for path in options.settings:
        values |= read_settings(path)
    values |= {name: str(cache_folder() / folder) for name, folder in CACHES.items()}
    # Groups that DeepSpeed makes later wait as long as the first one; it takes whole minutes only.
    values["DEEPSPEED_TIMEOUT"] = str(math.ceil(timeout_minutes(recipe)))
    values = {name: value for name, value in values.items() if name not in os.environ}
    paths = [str(ROOT), *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT))]
    values["PYTHONPATH"] = os.pathsep.join(paths)
    values[MARK] = options.launch
    if options.mode == "hostfile":
        own = os.environ.get("PDSH_SSH_ARGS_APPEND", "")
        values["PDSH_SSH_ARGS_APPEND"] = f"{own} {ssh_options(timeout_minutes(recipe))}".strip()
    return values


def timeout_minutes(recipe: Recipe) -> float:
    """Return the minutes that the collectives of a recipe's command wait for the slowest rank."""
    if isinstance(recipe, LearningRecipe):
        return recipe.engine.timeout_minutes
    return recipe.timeout_minutes if isinstance(recipe, EvaluateRecipe | FeaturesRecipe) else 10.0


def user_name() -> str:
    """Return the user's name, or the number of one without an entry in the passwd file, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def cache_folder() -> Path:
    """Return the folder of this user's caches on the disk of each host (``MVD_DS_CACHE`` names another)."""
    return Path(os.environ.get("MVD_DS_CACHE") or Path(tempfile.gettempdir()) / f"mvd_ds-{user_name()}")


def forwarded(environment: dict[str, str], patterns: tuple[str, ...]) -> dict[str, str]:
    """Return the part of ``environment`` that other hosts get; what looks like a credential is never part of it.

    Args:
        environment: all variables.
        patterns: names, or patterns of names, that are wanted beside ``FORWARDED``.

    Raises:
        ConfigError: if a name that was asked for looks like a credential.
    """
    for name in patterns:
        if looks_like_credential(name, environment.get(name, "")):
            raise ConfigError(
                f"launch: --forward {name}: looks like a credential, which a launch does not write to a file that all hosts see; "
                "keep it on each host, in a file such as HF_HOME/token"
            )
    wanted = (*FORWARDED, *patterns)
    return {
        name: value
        for name, value in sorted(environment.items())
        if name not in KEPT_HERE
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
        and not looks_like_credential(name, value)
    }


def hidden_from_deepspeed(environment: dict[str, str]) -> list[str]:
    """Return the names in ``environment`` that look like credentials and that DeepSpeed would hand on by itself."""
    return [
        name
        for name, value in sorted(environment.items())
        if name.startswith(EXPORTED_BY_DEEPSPEED) and looks_like_credential(name, value)
    ]


def deepspeed_env(values: dict[str, str]) -> str:
    """Return the text of a ``.deepspeed_env`` from which every remote shell gets exactly ``values``.

    The users' own ``~/.deepspeed_env`` and ``./.deepspeed_env`` come last and win, as they would without a launch.

    Raises:
        ConfigError: for a value that such a file cannot hold.
    """
    lines = [f"{name}={shell_escaped(name, value)}" for name, value in values.items()]
    # A user without a home folder has no file there.
    for folder in (os.path.expanduser("~"), "."):
        path = Path(folder, ".deepspeed_env")
        if path.is_file():
            lines += [line for line in path.read_text(encoding="utf-8").splitlines() if "=" in line]
    return "".join(f"{line}\n" for line in lines)


def shell_escaped(name: str, value: str) -> str:
    """Return ``value`` escaped for ``export NAME=...;``, which DeepSpeed writes with double quotes and without escapes.

    Percent signs are doubled for pdsh, which replaces %h, %n and %u.
    """
    if "\n" in value:
        raise ConfigError(f"the variable {name} holds a line break, which no remote shell would get whole; unset it")
    return re.sub(r'([\\"$`])', r"\\\1", value).replace("%", "%%")


def pdsh_argument(argument: str) -> str:
    """Return an argument as DeepSpeed must get it for ranks behind pdsh and a remote shell to see it unchanged.

    DeepSpeed puts double quotes around arguments with a space, escaping double quotes only; others it leaves bare.
    """
    argument = argument.replace("%", "%%")
    if " " in argument:
        return re.sub(r"([\\$`])", r"\\\1", argument)
    return argument if re.fullmatch(r"[\w@%+=:,./-]+", argument) else "'" + argument.replace("'", "'\"'\"'") + "'"


def deepspeed_program() -> str:
    """Return the ``deepspeed`` that belongs to this Python, else the one on the PATH."""
    beside = Path(sys.executable).with_name("deepspeed")
    return str(beside) if beside.exists() else "deepspeed"
