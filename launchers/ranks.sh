#!/usr/bin/env bash
# Starts one rank, where another scheduler starts every rank itself (torchrun's environment, mpirun, srun with a task for each GPU).
#   torchrun --nnodes 2 --nproc-per-node 8 ... --no-python bash launchers/ranks.sh COMMAND RECIPE [key=value ...]
#   srun --ntasks-per-node 8 bash launchers/ranks.sh COMMAND RECIPE [key=value ...]
# Takes RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; from Open MPI or SLURM the first three are translated, and in a
# SLURM job the last two are made from its first host and number.
# Restarts and ending the other ranks are the scheduler's. Options: python -m mvd_ds launch --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case "${1:-}" in "" | -h | --help) usage ;; esac

RANK=${RANK:-${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:-}}}
LOCAL_RANK=${LOCAL_RANK:-${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-}}}
WORLD_SIZE=${WORLD_SIZE:-${OMPI_COMM_WORLD_SIZE:-${SLURM_NTASKS:-}}}
if [ -n "${SLURM_JOB_ID:-}" ]; then
  : "${MASTER_ADDR:=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"
  # Below 32768, where Linux begins to hand out ports to outgoing connections.
  : "${MASTER_PORT:=$((20000 + SLURM_JOB_ID % 12000))}"
fi
for name in RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT; do
  if [ -n "${!name:-}" ]; then export "${name?}"; else unset "$name"; fi
done
supervise --one-rank "$@"
