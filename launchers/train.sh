#!/usr/bin/env bash
# Trains on one host, on all its GPUs (without any: one process on the CPU).
#   bash launchers/train.sh [options] COMMAND RECIPE [key=value ...]
#   bash launchers/train.sh --processes 4 distill mvd_base_from_base data.manifest=data/train.txt
# Runs to the end of the recipe, restarts after a failure, leaves no process behind. Exit code 0 finished, 75 stopped by a
# signal (the same command goes on), 2 something that a person must mend, 1 failed. Options: python -m mvd_ds launch --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case "${1:-}" in "" | -h | --help) usage ;; esac
supervise "$@"
