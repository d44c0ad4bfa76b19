# Sourced by the scripts beside it. It finds the environment and hands over to the supervisor: `python -m mvd_ds launch --help`
# has all options, and --dry-run prints the exact command and environment.
#
# MVD_DS_VENV   environment to use (default: .venv of this clone, where launchers/setup.sh puts it; else the python on the PATH)
# MVD_DS_CACHE  compiled kernels, on a disk of each host (default: /tmp/mvd_ds-USER)

launchers=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$launchers")

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit "${1:-0}"; }
fail() { echo "$(basename "$0"): $*" >&2; exit 2; }

use_environment() {
  local environment=${MVD_DS_VENV:-$root/.venv}
  if [ -x "$environment/bin/python" ]; then PATH="$environment/bin:$PATH"; fi
  python -c 'import sys, importlib.util as u; sys.exit(not (u.find_spec("deepspeed") and u.find_spec("pydantic")))' 2>/dev/null \
    || fail "$(command -v python || echo python) has no deepspeed; make .venv: bash launchers/test.sh tests/test_config.py, or set MVD_DS_VENV"
  # In a clone; an installed package is found without.
  if [ -e "$root/mvd_ds/__init__.py" ]; then export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"; fi
  export PATH
}

# supervise [launch options] COMMAND RECIPE [key=value ...]: becomes the supervisor, so that this process gets the signals
supervise() {
  use_environment
  exec python -m mvd_ds launch --settings "$launchers/nccl.env" "$@"
}
