#!/usr/bin/env bash
# What distillation is worth: the quickstart's student and the same network from scratch learn both labels of the sample
# videos with the same budget, three seeds each (twelve runs), and the difference is told with its interval.
#   bash launchers/finetune_demo.sh [--quickstart DIR] [--output DIR] [key=value ...]
# Runs the quickstart first where DIR (runs/quickstart) has no student. Run again, it goes on where it was.
# key=value replaces a setting of all runs, for instance schedule.epochs=2.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launchers/setup.sh

quickstart=$PWD/runs/quickstart
output=
settings=()
while [ $# -gt 0 ]; do
  case "$1" in
    --quickstart | --output)
      [ $# -ge 2 ] || { echo "finetune_demo: $1 needs a value" >&2; exit 2; }
      value=$(cd "$caller" && realpath -m "$2")
      if [ "$1" = --output ]; then output=$value; else quickstart=$value; fi
      shift 2 ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *=*) settings+=("$1"); shift ;;
    *) echo "finetune_demo: unknown option $1; there are --quickstart DIR, --output DIR and key=value" >&2; exit 2 ;;
  esac
done
output=${output:-$quickstart/finetune}

[ -e "$quickstart/student/model/model.safetensors" ] || bash launchers/quickstart.sh --output "$quickstart"
setup_environment requirements.txt
choose_processes
if [ "$DS_ACCELERATOR" = cpu ]; then
  # A second process would take as long to start as it then saves.
  export OMP_NUM_THREADS=$((OMP_NUM_THREADS * processes))
  processes=1
fi
started=$SECONDS

for label in what how; do
  distilled=() scratch=()
  for seed in 0 1 2; do
    for start in distilled scratch; do
      folder=$output/$label-$start-$seed
      weights=null
      [ "$start" = scratch ] || weights=$quickstart/student/model
      echo
      echo "=== $label, $start, seed $seed ($(((SECONDS - started) / 60)):$(printf %02d $(((SECONDS - started) % 60))) so far)"
      deepspeed --log_level critical --num_accelerators "$processes" --master_port "$((20000 + RANDOM % 20000))" \
        --module mvd_ds finetune quickstart_finetune "data.manifest=$quickstart/videos/train.txt" \
        "validation.manifest=$quickstart/videos/val.txt" "label=$label" "weights=$weights" "run.seed=$seed" \
        "run.output=$folder" "batch.micro=$((16 / processes))" "${settings[@]}"
      if [ "$start" = distilled ]; then distilled+=("$folder"); else scratch+=("$folder"); fi
    done
  done
  echo
  echo "=== $label: the distilled student against the same network from scratch"
  python -m mvd_ds compare "${distilled[@]}" --against "${scratch[@]}" --output "$output/$label.json"
done
