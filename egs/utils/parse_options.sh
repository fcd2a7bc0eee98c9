# Sourced by a run.sh after it has set its variables: makes each of them a flag.
#
#   max_steps=60
#   . ../../utils/parse_options.sh      # now: run.sh --max-steps 200
#
# A flag that is no variable set before is an error; --help lists the variables with their values. OPTIONS holds the
# names, for stage.sh. Options are the lower-case variables assigned at the start of a line above the one that sources this.
script=${0##*/} # in this folder by now, wherever it was called from
OPTIONS=$(sed -n '/parse_options.sh/q; s/^\([a-z][a-z_0-9]*\)=.*/\1/p' "$script")

options_help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"
  echo "Options and their values:"
  for name in $OPTIONS; do echo "  --${name//_/-} ${!name}"; done
}

while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) options_help; exit 0 ;;
    --*=*) flag=${1%%=*} value=${1#*=}; shift ;;
    --*)
      [ $# -gt 1 ] || { echo "$0: error: $1 needs a value" >&2; exit 2; }
      flag=$1 value=$2; shift 2 ;;
    *) echo "$0: error: unexpected '$1'; options look like --name VALUE" >&2; exit 2 ;;
  esac
  name=${flag#--} name=${name//-/_}
  if ! grep -qx -- "$name" <<< "$OPTIONS"; then
    echo "$0: error: no option $flag; --help lists them" >&2; exit 2
  fi
  printf -v "$name" '%s' "$value"
done
