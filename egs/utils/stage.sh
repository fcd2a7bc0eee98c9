# Sourced by a run.sh: stages that run once for what they read.
#
#   fetch() { ...; }
#   stage 1 fetch corpus conf/fetch.yaml     # runs fetch, which reads these files and folders
#
# A finished stage leaves $marks/FUNCTION with a hash of the function's text, of the options that the text names, of
# the files and folders it reads, and of the marks of the stages before it; when all are the same, it is skipped.
# Needs the variables stage, stop_stage and marks.
stages_before=""

stage() {
  local number=$1 step=$2 name hash; shift 2
  [ "$number" -le "$stop_stage" ] || return 0
  hash=$({
    declare -f "$step"
    for name in $OPTIONS; do
      if [[ $(declare -f "$step") =~ \$\{?"$name" ]]; then echo "$name=${!name}"; fi
    done
    echo "$stages_before"
    for name in "$@"; do
      [ -e "$name" ] || { echo "$0: error: stage $number ($step) reads $name, which does not exist" >&2; exit 1; }
      find "$name" -type f -not -name '.*' -print0 | sort -z | xargs -0 -r sha256sum
    done
  } | sha256sum) || exit 1
  stages_before=$hash
  [ "$number" -ge "$stage" ] || return 0
  if [ "$(cat "$marks/$step" 2> /dev/null)" = "$hash" ]; then
    echo "== stage $number: $step (done before)"
    return 0
  fi
  echo "== stage $number: $step"
  mkdir -p "$marks"
  rm -f "$marks/$step"
  "$step"
  echo "$hash" > "$marks/$step"
}
