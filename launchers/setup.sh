# Sourced by the scripts beside it: makes .venv (or the folder MVD_DS_VENV names) with everything in requirements.txt, and
# puts it on the PATH. Does nothing when requirements have not changed since the last time.

setup_fail() { echo "setup: $*" >&2; exit 2; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.12 python3.11 python3 python; do
    # A name on the PATH may be a shim that does not run, so each is asked for its version.
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
      echo "$candidate"; return
    fi
  done
  setup_fail "no Python 3.11 to 3.13 found; on Debian or Ubuntu: sudo apt-get install python3 python3-venv"
}

# setup_environment REQUIREMENTS_FILE...
setup_environment() {
  # `mvd-ds quickstart` runs in the environment that it is installed in.
  [ -z "${MVD_DS_INSTALLED:-}" ] || return 0
  local environment=${MVD_DS_VENV:-$PWD/.venv} stamp python file arguments=()
  stamp=$environment/.installed-$(cat "$@" pyproject.toml | sha256sum | cut -c1-16)
  if [ ! -e "$stamp" ]; then
    python=$(find_python)
    echo "setup: installing into $environment with $("$python" --version) (the first time a few minutes and about 6 GB)"
    [ -x "$environment/bin/python" ] || "$python" -m venv "$environment" \
      || setup_fail "cannot create $environment; on Debian or Ubuntu: sudo apt-get install python3-venv"
    for file in "$@"; do arguments+=(-r "$file"); done
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}" \
      || setup_fail "pip could not install $*; see its message above"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e . \
      || setup_fail "pip could not install mvd_ds itself; see its message above"
    touch "$stamp"
    echo "setup: done; for commands of your own: source $environment/bin/activate"
  fi
  export PATH="$environment/bin:$PATH"
}

# choose_processes: sets $processes, as many as devices, in powers of two so that they divide the recipes' global batches
choose_processes() {
  local device threads
  read -r device processes threads < <(python - <<'PYTHON'
import os, torch
devices = torch.cuda.device_count()
processes = max(n for n in (1, 2, 4, 8) if n <= (devices or 2))
print("cuda" if devices else "cpu", processes, max((os.cpu_count() or 1) // processes, 1))
PYTHON
)
  export DS_ACCELERATOR=$device
  export OMP_NUM_THREADS=$threads PYTHONWARNINGS=ignore TORCH_CPP_LOG_LEVEL=ERROR
}
