#!/usr/bin/env bash
# Usage: check_packets.sh MODEL FILE. Packets through a pipe must decode to what a file of codes decodes to.

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
audiomask encode "$2" -m "$1" -o "$folder/whole.amk" -q
audiomask decode "$folder/whole.amk" -m "$1" -o "$folder/whole.wav" -q
read -r rate < <(python3 - "$2" "$folder/in.raw" "$folder/whole.wav" "$folder/whole.raw" <<'PY'
import sys
import soundfile

for source, raw in (sys.argv[1:3], sys.argv[3:5]):
    soundfile.read(source, dtype="int16")[0].tofile(raw)
print(soundfile.info(sys.argv[1]).samplerate)
PY
)
audiomask encode - -m "$1" --raw s16le --rate "$rate" --frames-per-packet 1 < "$folder/in.raw" |
  audiomask decode - -m "$1" --raw s16le --jitter 0 > "$folder/piped.raw"
python3 - "$folder/whole.raw" "$folder/piped.raw" <<'PY'
import sys
import numpy

whole, piped = (numpy.fromfile(name, "<i2").astype(int) for name in sys.argv[1:])
if len(whole) != len(piped):
    sys.exit(f"the pipe gave {len(piped)} samples, the file {len(whole)}")
worst = abs(whole - piped).max()
print(f"packets equal the file: {len(whole)} samples, largest difference {worst} of 32768")
sys.exit(int(worst > 1))  # one step: both round to 16 bits
PY
