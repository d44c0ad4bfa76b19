#!/usr/bin/env bash
# Measures what distillation is worth: the quickstart's student and the same network from scratch learn both labels of the sample
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
started=$SECONDS
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

# one LABEL START SEED: one run, on $each processes
one() {
  local weights=null
  [ "$2" = scratch ] || weights=$quickstart/student/model
  deepspeed --log_level critical --num_accelerators "$each" --master_port "$((20000 + RANDOM % 20000))" --module mvd_ds \
    finetune quickstart_finetune "data.manifest=$quickstart/videos/train.txt" \
    "validation.manifest=$quickstart/videos/val.txt" "label=$1" "weights=$weights" "run.seed=$3" \
    "run.output=$output/$1-$2-$3" "batch.micro=$((16 / each))" "${settings[@]}"
}

for label in what how; do
  for seed in 0 1 2; do
    echo
    echo "=== $label, seed $seed: distilled and from scratch ($(((SECONDS - started) / 60)):$(printf %02d $(((SECONDS - started) % 60))) so far)"
    if [ "$DS_ACCELERATOR" = cpu ]; then
      each=1 # side by side, a process each: neither waits for the other
      one "$label" distilled "$seed" &
      one "$label" scratch "$seed"
      wait $!
    else
      each=$processes
      one "$label" distilled "$seed"
      one "$label" scratch "$seed"
    fi
  done
  echo
  echo "=== $label: the distilled student against the same network from scratch"
  python -m mvd_ds compare "$output/$label-distilled-"{0,1,2} --against "$output/$label-scratch-"{0,1,2} --output "$output/$label.json"
done
