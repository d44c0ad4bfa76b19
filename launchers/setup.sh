# Sourced by the scripts beside it: makes .venv with everything in requirements.txt, and puts it on the PATH.
# Does nothing when requirements have not changed since the last time.

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
  local python stamp
  stamp=$(cat "$@" pyproject.toml | sha256sum | cut -d' ' -f1)
  if [ "$(cat .venv/.installed 2>/dev/null)" != "$stamp" ]; then
    python=$(find_python)
    echo "setup: installing into .venv with $("$python" --version) (a few minutes, about 6 GB, the first time)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv \
      || setup_fail "cannot create .venv; on Debian or Ubuntu: sudo apt-get install python3-venv"
    local arguments=()
    for file in "$@"; do arguments+=(-r "$file"); done
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${arguments[@]}" \
      || setup_fail "pip could not install $*; see its message above"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e . \
      || setup_fail "pip could not install mvd_ds itself; see its message above"
    echo "$stamp" > .venv/.installed
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}
