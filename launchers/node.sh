#!/usr/bin/env bash
# Starts one node of several, where something else starts a process on each (Kubernetes, a cloud's agent, a person): no ssh.
#   bash launchers/node.sh NODE_RANK HOSTFILE [options] COMMAND RECIPE [key=value ...]
# The same hostfile on every node; line NODE_RANK (from 0) is this one, line 0 has rank 0 and must be reachable by its name, or
# give --master-addr. All nodes agree on a port by --port or a job number in MVD_DS_JOB_ID. It does not restart by itself
# (nodes would meet in different attempts): what started it does, when the exit code is not 0.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case "${1:-}" in "" | -h | --help) usage ;; esac
[ $# -ge 4 ] || usage 2
rank=$1 hostfile=$2
shift 2
supervise --node-rank "$rank" --hostfile "$hostfile" --restarts 0 "$@"
