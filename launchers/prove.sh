#!/usr/bin/env bash
# Proves a GPU host that cannot reach the network, by `python -m mvd_ds prove`.
#   bash launchers/prove.sh collect [PYTHON [PACKAGE ...]]   here: wheels for PYTHON (3.12), but for what PACKAGEs name
#   bash launchers/prove.sh run [options of prove]           there: puts the wheels on the path and runs
# Copy the clone with its folder wheels/ in between. PACKAGEs are those that the host has, as a rule torch and what came with
# it; by default: torch numpy timm einops pillow tensorboard packaging pyyaml matplotlib psutil safetensors
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

collect() {
  local python=${1:-3.12} requirement name platforms=()
  shift || true
  local installed=" ${*:-torch numpy timm einops pillow tensorboard packaging pyyaml matplotlib psutil safetensors} "
  for glibc in 2_17 2_24 2_26 2_27 2_28 2_31; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
  platforms+=(--platform manylinux1_x86_64 --platform manylinux2010_x86_64 --platform manylinux2014_x86_64)
  rm -rf wheels && mkdir wheels
  # What requirements.txt names, and what those need in turn and torch does not bring.
  local more="annotated-types pydantic-core typing-inspection hjson py-cpuinfo msgpack ninja tqdm markdown-it-py mdurl pygments"
  while read -r requirement; do
    name=$(sed -E 's/[^A-Za-z0-9_.-].*//' <<<"$requirement")
    [[ $installed == *" $name "* ]] && continue
    if [ "$name" = deepspeed ]; then # it has no wheel: one without compiled operators is made here
      DS_BUILD_OPS=0 python3 -m pip wheel --quiet --no-deps --no-build-isolation -w wheels "$requirement"
    else
      python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$python" --implementation cp \
        "${platforms[@]}" -d wheels "$requirement" || echo "prove.sh: no wheel of $name; parts that need it will say so" >&2
    fi
  done < <(sed -E 's/ *#.*//; s/;.*//; /^$/d' requirements.txt; pinned $more)
  du -sh wheels
}

# pinned NAME...: the versions that this environment has, where it has them
pinned() {
  local name version
  for name in "$@"; do
    version=$(python3 -m pip show "$name" 2>/dev/null | sed -n 's/^Version: //p')
    echo "$name${version:+==$version}"
  done
}

run() {
  local site=${TMPDIR:-/tmp}/mvd_ds-wheels
  ls wheels/*.whl >/dev/null 2>&1 || { echo "prove.sh: wheels/ is empty; run 'bash launchers/prove.sh collect' where there is a network" >&2; exit 2; }
  python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" wheels/*.whl
  PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" python3 -m mvd_ds prove "$@"
}

case ${1:-} in
  collect | run) "$@" ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
