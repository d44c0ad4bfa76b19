#!/usr/bin/env bash
# The whole main job, small: sample videos, two teachers, a student distilled from both, probes, a report.
#   bash launchers/quickstart.sh [--output DIR] [--videos DIR|MANIFEST] [key=value ...]
# Run again, it goes on where it was. On a machine with GPUs it uses them; else two processes on the CPU.
# key=value replaces a setting of all three trainings, for instance schedule.steps=2000.
set -euo pipefail
caller=$PWD
launchers=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$launchers/setup.sh"
# `mvd-ds quickstart` sets MVD_DS_INSTALLED: everything is written below the caller's folder, as there may be no clone.
[ -n "${MVD_DS_INSTALLED:-}" ] || cd "$launchers/.."

output=runs/quickstart
videos=
settings=()
while [ $# -gt 0 ]; do
  case "$1" in
    --output | --videos)
      [ $# -ge 2 ] || { echo "quickstart: $1 needs a value" >&2; exit 2; }
      value=$(realpath -m "$(cd "$caller" && realpath -m "$2")")
      if [ "$1" = --output ]; then output=$value; else videos=$value; fi
      shift 2 ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *=*) settings+=("$1"); shift ;;
    *) echo "quickstart: unknown option $1; there are --output DIR and --videos DIR|MANIFEST and key=value" >&2; exit 2 ;;
  esac
done
if [ -n "$videos" ] && [ ! -e "$videos" ]; then
  echo "quickstart: --videos $videos: no such folder or manifest" >&2
  exit 2
fi

setup_environment requirements.txt
choose_processes
started=$SECONDS

stage() { echo; echo "=== $* ($(((SECONDS - started) / 60)):$(printf %02d $(((SECONDS - started) % 60))) so far)"; }
# launched CLIPS COMMAND RECIPE [key=value ...]: the real launcher, without its log lines; CLIPS is the recipe's global batch
launched() {
  local clips=$1
  shift
  deepspeed --log_level critical --num_accelerators "$processes" --master_port "$((20000 + RANDOM % 20000))" --module mvd_ds "$@" \
    "batch.micro=$((clips / processes))" "${settings[@]}"
}

if [ -n "$videos" ]; then
  train=$videos
  data=("data.manifest=$videos" data.clip.stride_frames=4 data.clip.crop=multiscale data.clips_per_video=4)
  probe=("data.manifest=$videos" validation_manifest=null labels=optional data.clip.stride_frames=4)
else
  stage "1 of 6: writing the sample videos"
  python -m mvd_ds synthesize "$output/videos" --frames 12
  train=$output/videos/train.txt
  data=("data.manifest=$train")
  probe=("data.manifest=$train" "validation_manifest=$output/videos/val.txt")
fi

stage "2 of 6: the image teacher learns to recover masked patches of single frames"
launched 64 pretrain quickstart_image "run.output=$output/image" "${data[@]}"

stage "3 of 6: the video teacher learns to recover masked tubes"
launched 64 pretrain quickstart_video "run.output=$output/video" "${data[@]}"

stage "4 of 6: the student learns from both, frozen and sharded ($processes processes, ZeRO-3)"
launched 16 distill quickstart_distill "run.output=$output/student" "${data[@]}" \
  "teachers.image.weights=$output/image/model" "teachers.video.weights=$output/video/model"

stage "5 of 6: what do they know? linear probes on frozen features"
models=()
for pair in image_teacher:image video_teacher:video student:student untrained:student untrained_image:image \
  one_frame:student shuffled_frames:student; do
  models+=("models.${pair%%:*}.weights=$output/${pair##*:}/model")
done
OMP_NUM_THREADS=$((OMP_NUM_THREADS * processes)) python -m mvd_ds probe quickstart_probe "run.output=$output/probe" \
  "${probe[@]}" "${models[@]}"

stage "6 of 6: the report"
python -m mvd_ds report "$output/image" "$output/video" "$output/student" "$output/probe" --output "$output"

cat <<END

Made in $(((SECONDS - started) / 60)) minutes, all in $output:
  videos   $train
  teachers $output/image/model  $output/video/model
  student  $output/student/model
  report   $output/report.html
Next: .venv/bin/tensorboard --logdir $output
  or: bash launchers/quickstart.sh --videos YOUR_FOLDER --output runs/mine
END
