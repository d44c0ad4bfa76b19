#!/usr/bin/env bash
# Runs the whole job in small: sample videos, two teachers, a student distilled from both, probes, a report.
#   bash launchers/quickstart.sh [--output DIR] [--videos DIR|MANIFEST] [key=value ...]
# A first report with pictures and a table comes after the image teacher, within five minutes on 2 cores; later ones replace it.
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
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
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
# launched CLIPS COMMAND RECIPE [key=value ...]: the real launcher under `mvd_ds launch`, which saves and ends it at Ctrl-C;
# without DeepSpeed's log lines. CLIPS is the recipe's global batch.
launched() {
  local clips=$1 fitted=()
  shift
  # Few videos are repeated until they fill a batch, as often as a process takes clips.
  if [ -n "$videos" ]; then fitted=("data.clips_per_video=$(repeats_of "$count" "$clips" "$((clips / processes))")"); fi
  # Processes that share a host's cores are never equally fast.
  if [ "$DS_ACCELERATOR" = cpu ]; then fitted+=(run.slow_rank_ratio=1000); fi
  python -m mvd_ds launch --processes "$processes" --restarts 0 --deepspeed="--log_level critical" "$@" \
    "batch.micro=$((clips / processes))" "${fitted[@]}" "${settings[@]}"
}
# repeats_of VIDEOS CLIPS MOST: 4, or as many more as fill a batch of CLIPS, in powers of two up to MOST
repeats_of() {
  local repeats=4
  while [ $(($1 * repeats)) -lt "$2" ]; do repeats=$((repeats * 2)); done
  echo $((repeats < $3 ? repeats : $3))
}
# probed FOLDER MODEL:RUN... [-- key=value ...]: linear probes of frozen networks
probed() {
  local folder=$1 models=()
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    models+=("models.${1%%:*}.weights=$output/${1##*:}/model")
    shift
  done
  OMP_NUM_THREADS=$((OMP_NUM_THREADS * processes)) python -m mvd_ds probe quickstart_probe "run.output=$output/$folder" \
    "${probe[@]}" "${@:2}" "${models[@]}"
}
# look TITLE RUN...: a report on what is there, with a table of a few clips; the last stage replaces it
look() {
  local title=$1 runs=("${@:2}")
  stage "$title"
  local models=("models={}" "models.image_teacher.every_frames=2" "models.untrained_image.untrained=true" "models.untrained_image.every_frames=2")
  local pairs="[image_teacher, untrained_image]" named=(image_teacher:image untrained_image:image)
  if [ ${#runs[@]} -gt 1 ]; then
    models+=("models.untrained_video.untrained=true")
    pairs="$pairs, [video_teacher, untrained_video]"
    named+=(video_teacher:video untrained_video:video)
  fi
  probed "look_${#runs[@]}" "${named[@]}" -- most_clips=600 "compare=[$pairs]" "${models[@]}"
  python -m mvd_ds report "${runs[@]/#/$output/}" "$output/look_${#runs[@]}" --output "$output"
  echo "Pictures and a first table: $output/report.html"
}

if [ -n "$videos" ]; then
  data=("data.manifest=$videos" data.clip.stride_frames=4 data.clip.crop=multiscale)
  probe=("data.manifest=$videos" validation_manifest=null labels=optional data.clip.stride_frames=4)
  # Refused before anything is trained: a set without two classes, or with too few videos of them.
  count=$(python - "${probe[@]}" <<'PYTHON'
import sys
from mvd_ds.config import ConfigError, load_recipe
from mvd_ds.runs.probing.probe_splits import require_labels
try:
    print(require_labels(load_recipe("quickstart_probe", sys.argv[1:], "probe")))
except ConfigError as error:
    print(f"quickstart: {error}", file=sys.stderr)
    sys.exit(2)
PYTHON
  ) || exit 2
  train=$videos
else
  stage "1 of 8: writing the sample videos"
  python -m mvd_ds synthesize "$output/videos" --frames 12
  train=$output/videos/train.txt
  data=("data.manifest=$train")
  probe=("data.manifest=$train" "validation_manifest=$output/videos/val.txt")
fi

stage "2 of 8: the image teacher learns to recover masked patches of single frames"
launched 64 pretrain quickstart_image "run.output=$output/image" "${data[@]}"

look "3 of 8: a first look: what the image teacher recovers, and what it knows" image

stage "4 of 8: the video teacher learns to recover masked tubes"
launched 64 pretrain quickstart_video "run.output=$output/video" "${data[@]}"

look "5 of 8: a second look, with the video teacher" image video

stage "6 of 8: the student learns from both, frozen and sharded ($processes processes, ZeRO-3)"
launched 16 distill quickstart_distill "run.output=$output/student" "${data[@]}" \
  "teachers.image.weights=$output/image/model" "teachers.video.weights=$output/video/model"

stage "7 of 8: what do they know? linear probes on frozen features"
probed probe image_teacher:image video_teacher:video student:student untrained:student untrained_image:image \
  one_frame:student shuffled_frames:student

stage "8 of 8: the report"
python -m mvd_ds report "$output/image" "$output/video" "$output/student" "$output/probe" --output "$output"

cat <<END

Made in $(((SECONDS - started) / 60)) minutes, all in $output:
  videos   $train
  teachers $output/image/model  $output/video/model
  student  $output/student/model
  report   $output/report.html
Next, in this folder:
$([ -n "${MVD_DS_INSTALLED:-}" ] || echo "  source ${MVD_DS_VENV:-.venv}/bin/activate     for commands of your own: python -m mvd_ds ...")
  tensorboard --logdir $output
  $([ -n "${MVD_DS_INSTALLED:-}" ] && echo mvd-ds quickstart || echo bash launchers/quickstart.sh) --videos YOUR_FOLDER --output runs/mine
END
