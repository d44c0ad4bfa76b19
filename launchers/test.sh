#!/usr/bin/env bash
# Runs all tests: sets up .venv as the quickstart does, adds what only tests need, and hands over to pytest.
#   bash launchers/test.sh [--nightly] [pytest arguments ...]
# --nightly runs those that take longer than CI allows, too.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launchers/setup.sh
setup_environment requirements.txt tests/requirements.txt
selection=(-m "not nightly")
if [ "${1:-}" = --nightly ]; then
  selection=()
  shift
elif [ $# = 0 ]; then
  # Which of the two workers takes a file is said in tests/conftest.py.
  # A worker that dies ends the run: started again, pytest-xdist gives it the same test until the run hangs.
  selection+=(-n 2 --dist loadfile --max-worker-restart 0)
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONWARNINGS=ignore
exec python -m pytest "${selection[@]}" "$@"
