#!/usr/bin/env bash
# Tests the paper's claim on a small scale: an image teacher, a video teacher, students of one of them and of both, and a VideoMAE
# that saw as much; linear probes on what moves and how; one table and one plot with 95 % intervals, over three seeds of everything.
#   bash launchers/demo.sh [--world digits|doom] [--seeds "0 1 2"] [--minutes M] [--videos DIR] [--output DIR] [key=value ...]
# Run again, it goes on where it was. --minutes: save and end after M minutes at most, with exit code 75 if there is more to do.
# --videos: train.txt and val.txt in there, with labels, in place of the sample set; clips of 12 frames, 48 px.
# On a machine with GPUs it uses them; else two trainings at a time, one core each. key=value replaces a setting of all trainings.
# --world doom: things in the rooms of a game, teachers that know something, fine-tuning as the main measure, by the protocol
# tests/experiments/claim_doom.yaml, which fixes all the rest; on the CPU.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launchers/setup.sh

output=$PWD/runs/demo
seeds="0 1 2"
minutes= videos= world=digits
settings=()
while [ $# -gt 0 ]; do
  case "$1" in
    --output | --videos | --seeds | --minutes | --world)
      [ $# -ge 2 ] || { echo "demo: $1 needs a value" >&2; exit 2; }
      case "$1" in
        --output) output=$(cd "$caller" && realpath -m "$2") ;;
        --videos) videos=$(cd "$caller" && realpath -m "$2") ;;
        --seeds) seeds=$2 ;;
        --minutes) minutes=$2 ;;
        --world) world=$2 ;;
      esac
      shift 2 ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *=*) settings+=("$1"); shift ;;
    *) echo "demo: unknown option $1; there are --world digits or doom, --seeds \"0 1 2\", --minutes M, --videos DIR, --output DIR and key=value" >&2; exit 2 ;;
  esac
done
[[ $seeds =~ ^[0-9]+( [0-9]+)*$ ]] || { echo "demo: --seeds '$seeds': give numbers, such as \"0 1 2\"" >&2; exit 2; }
[[ $minutes =~ ^[1-9]?[0-9]*$ ]] || { echo "demo: --minutes $minutes: give a number of minutes" >&2; exit 2; }

if [ -n "$videos" ]; then
  for list in train val; do [ -e "$videos/$list.txt" ] || { echo "demo: --videos $videos: has no $list.txt" >&2; exit 2; }; done
fi

case $world in
  digits) ;;
  doom)
    [ -z "$videos" ] && [ ${#settings[@]} = 0 ] && [ "$seeds" = "0 1 2" ] \
      || { echo "demo: --world doom: its protocol fixes seeds, videos and settings; give --minutes and --output alone" >&2; exit 2; }
    [ -e tests/experiments/claim_doom.yaml ] || { echo "demo: --world doom needs a checkout, with its tests/" >&2; exit 2; }
    setup_environment requirements.txt tests/requirements.txt
    cd tests
    code=0
    PYTHONPATH=..:. python -m experiments.experiment claim_doom --output "$output/claim" ${minutes:+--minutes "$minutes"} || code=$?
    [ $code != 75 ] || echo "demo: $minutes minutes are over; the same command goes on"
    [ $code != 0 ] || echo "The page: $output/claim/report.html"
    exit "$code" ;;
  *) echo "demo: --world $world: there are digits and doom" >&2; exit 2 ;;
esac
setup_environment requirements.txt
choose_processes
started=$SECONDS
lanes=1
if [ "$DS_ACCELERATOR" = cpu ]; then
  # Two single processes do not wait for each other at every step, as two of one training do.
  lanes=$processes processes=1
fi
mkdir -p "$output"
printf '%s\n' "$videos" "${settings[@]}" >"$output/.settings.new"
if [ -e "$output/settings" ] && ! cmp -s "$output/settings" "$output/.settings.new"; then
  echo "demo: $output was begun with other videos or settings ($(tr '\n' ' ' <"$output/settings")); give another --output" >&2
  exit 2
fi
mv "$output/.settings.new" "$output/settings"
trap 'code=$?; [ $code != 75 ] || echo "demo: $minutes minutes are over; the same command goes on"' EXIT

stage() { echo; echo "=== $* ($(((SECONDS - started) / 60)):$(printf %02d $(((SECONDS - started) % 60))) so far)"; }
left() { echo $((minutes * 60 - SECONDS + started)); }
# need SECONDS: ends this piece with 75 if it has less left
need() { [ -z "$minutes" ] || [ "$(left)" -ge "$1" ] || exit 75; }
finished() { python -m mvd_ds status "$folder/$1" >/dev/null; }

# train CLIPS COMMAND NAME [key=value ...]: recipe demo_NAME into $folder/NAME unless it is there; CLIPS is its global batch.
# Its exit code says where the run stands: 0 finished, 75 to go on, else failed.
train() {
  local clips=$1 command=$2 name=$3 limit=()
  shift 3
  ! finished "$name" || return 0
  need 60
  # The launcher takes some seconds before the processes whose age is limited begin.
  [ -z "$minutes" ] || limit=("run.stop_before_seconds=$(($(left) - 20))")
  deepspeed --log_level critical --num_accelerators "$processes" --master_port "$((20000 + RANDOM % 20000))" --module mvd_ds \
    "$command" "demo_$name" "run.output=$folder/$name" "run.seed=$seed" "data.manifest=$videos/train.txt" \
    "batch.micro=$((clips / processes))" "${limit[@]}" "$@" "${settings[@]}" || true
  finished "$name"
}
image=teachers.image.weights video=teachers.video.weights
baseline() { train 64 pretrain videomae; }
teachers() { train 64 pretrain video_teacher && train 64 pretrain image_teacher; }
student_of_both() {
  train 16 distill student_both "$image=$folder/image_teacher/model" "$video=$folder/video_teacher/model"
}
students_of_one() {
  train 16 distill student_image "$image=$folder/image_teacher/model" \
    && train 16 distill student_video "$video=$folder/video_teacher/model"
}
# together LANE LANE: side by side on CPUs, one after the other on GPUs; fails as the first that does
together() {
  local lane pids=() code=0
  for lane in "$@"; do
    "$lane" &
    pids+=("$!")
    [ "$lanes" -gt 1 ] || { wait "$!" || return "$?"; }
  done
  [ "$lanes" -gt 1 ] || return 0
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
  return "$code"
}

if [ -z "$videos" ]; then
  videos=$output/videos
  stage "the sample videos"
  python -m mvd_ds synthesize "$videos" --frames 12
fi
probes=()
for seed in $seeds; do
  folder=$output/seed-$seed
  probes+=("$folder/probe")
  ! finished probe || continue
  stage "seed $seed: both teachers, and the VideoMAE that the students must beat"
  together baseline teachers
  stage "seed $seed: students of both teachers, of the image teacher, of the video teacher"
  together student_of_both students_of_one
  stage "seed $seed: what do they know?"
  need $((minutes * 30))
  models=("models.untrained.weights=$folder/student_both/model")
  for name in image_teacher video_teacher student_image student_video student_both videomae; do
    models+=("models.$name.weights=$folder/$name/model")
  done
  OMP_NUM_THREADS=$((OMP_NUM_THREADS * lanes * processes)) python -m mvd_ds probe demo_probe "run.output=$folder/probe" \
    "run.seed=$seed" "data.manifest=$videos/train.txt" "validation_manifest=$videos/val.txt" "${models[@]}"
done

stage "the report: probes of all seeds, trainings of the first"
first=$output/seed-${seeds%% *}
python -m mvd_ds report "${probes[@]}" "$first"/{image_teacher,video_teacher,student_image,student_video,student_both,videomae} \
  --output "$output"
echo
echo "Made in $(((SECONDS - started) / 60)) minutes: the table above, and its plot in $output/report.html"
