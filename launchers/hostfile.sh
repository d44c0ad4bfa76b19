#!/usr/bin/env bash
# Trains on every host of a hostfile, by `deepspeed --hostfile` through pdsh and ssh. Start it on any of them.
#   bash launchers/hostfile.sh HOSTFILE [options] COMMAND RECIPE [key=value ...]
# HOSTFILE has a line `NAME slots=PROCESSES` for each host. Needed: pdsh here, ssh to every host without a password, this clone,
# its environment, the data and the run's folder under the same paths everywhere. Hosts that do not answer, or that `doctor`
# finds unhealthy, are left out of a restart. Exit codes and options as of train.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case "${1:-}" in "" | -h | --help) usage ;; esac
hostfile=$1
shift
supervise --hostfile "$hostfile" "$@"
