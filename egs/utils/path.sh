# Sourced by a recipe's path.sh: audiomask must be on the PATH; the repository's own environment is preferred where
# there is one. Sets root, the repository.
root=$(cd ../../.. && pwd)
if [ -x "$root/.venv/bin/audiomask" ]; then PATH="$root/.venv/bin:$PATH"; fi
if ! command -v audiomask > /dev/null; then
  echo "audiomask is not installed; from the repository's root: pip install -e '.[train]'" >&2; exit 1
fi
# Waiting threads sleep: on a machine that is shared, spinning ones make a step a hundred times slower.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} LC_ALL=C
