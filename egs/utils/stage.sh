# Sourced by a run.sh: stages that run once for what they read.
#
#   fetch() { ...; }
#   stage 1 fetch corpus conf/fetch.yaml     # runs fetch, which reads these files and folders
#
# A finished stage leaves $marks/FUNCTION with a hash of the function's text, of the options that the text names, of
# the files it reads, of the names, sizes and times of the files in the folders it reads (a corpus is too large to be
# read again), and of the marks of the stages before it; when all are the same, it is skipped.
# Needs the variables stage, stop_stage and exp; marks is $exp/.marks. For the function, fresh is "--fresh", or nothing if an attempt with
# the same hash was cut short: a training is then continued.
marks=$exp/.marks
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
      if [ -d "$name" ]; then find -L "$name" -type f -not -name '.*' -printf '%P %s %T@\n' | sort
      else sha256sum "$name"; fi
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
  fresh=--fresh
  if [ "$(cat "$marks.started" 2> /dev/null)" = "$step $hash" ]; then fresh=""; fi
  echo "$step $hash" > "$marks.started"
  "$step"
  echo "$hash" > "$marks/$step"
  rm "$marks.started"
}
