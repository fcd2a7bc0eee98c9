#!/usr/bin/env bash
# Usage: check_packets.sh MODEL FILE. Packets through a pipe must decode to what a file of codes decodes to.

set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rate() { python3 -c "import soundfile as s, sys; print(s.info(sys.argv[1]).samplerate)" "$1"; }
bare() { python3 -c 'import soundfile as s, sys; s.read(sys.argv[1], dtype="int16")[0].tofile(sys.argv[2])' "$@"; }

audiomask encode "$2" -m "$1" -o "$work/whole.amk" -q
audiomask decode "$work/whole.amk" -m "$1" -o "$work/whole.wav" -q
bare "$2" "$work/in.raw"
bare "$work/whole.wav" "$work/whole.raw"
audiomask encode - -m "$1" --raw s16le --rate "$(rate "$2")" --frames-per-packet 1 < "$work/in.raw" |
  audiomask decode - -m "$1" --raw s16le --jitter 0 > "$work/piped.raw"
python3 -c '
import sys
import numpy as np

file, pipe = (np.fromfile(name, "<i2").astype(int) for name in sys.argv[1:])
assert len(file) == len(pipe), f"the pipe gave {len(pipe)} samples, the file {len(file)}"
print(f"packets equal the file: {len(file)} samples, largest difference {abs(file - pipe).max()} of 32768")
sys.exit(int(abs(file - pipe).max() > 1))  # one step: both round to 16 bits
' "$work/whole.raw" "$work/piped.raw"
