#!/usr/bin/env bash
# Usage: slurm.sh LOG [SBATCH-OPTION...] -- COMMAND [ARGUMENT...]
# Runs COMMAND in this folder as a SLURM job, its output in LOG, and waits for it. The exit code is the job's.

set -euo pipefail
usage() { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

[ $# -ge 3 ] || usage
log=$1; shift
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
[ $# -ge 2 ] || usage
shift
mkdir -p "$(dirname "$log")"
printf -v command '%q ' "$@"
echo "slurm.sh: submitting ${1##*/}; its log: $log" >&2
code=0
sbatch --wait --output="$log" --open-mode=truncate "${options[@]}" <<< "#!/usr/bin/env bash
export OMP_NUM_THREADS=\${SLURM_CPUS_PER_TASK:-1} # and not what suits the machine that submits
exec $command" || code=$?
if [ "$code" -ne 0 ]; then
  echo "slurm.sh: error: the job ended with exit code $code; its log: $log" >&2
  tail -n 5 "$log" >&2 || true # there is none if the job was refused
fi
exit "$code"
