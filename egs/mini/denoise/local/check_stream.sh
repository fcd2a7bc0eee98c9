#!/usr/bin/env bash
# Usage: check_stream.sh MODEL FILE. A 16-bit mono file through `stream` must equal the same file through `enhance`.

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
audiomask enhance "$2" -m "$1" -o "$folder/whole.wav" --subtype PCM_16 -q
python3 - "$2" "$folder/in.raw" "$folder/whole.wav" "$folder/whole.raw" <<'PY'
import sys
import soundfile

for source, raw in (sys.argv[1:3], sys.argv[3:5]):
    soundfile.read(source, dtype="int16")[0].tofile(raw)
PY
rate=$(python3 -c 'import soundfile, sys; print(soundfile.info(sys.argv[1]).samplerate)' "$2")
audiomask stream -m "$1" --rate "$rate" < "$folder/in.raw" > "$folder/stream.raw"
python3 - "$folder/whole.raw" "$folder/stream.raw" <<'PY'
import sys
import numpy

whole, stream = (numpy.fromfile(name, "<i2").astype(int) for name in sys.argv[1:])
if len(whole) != len(stream):
    sys.exit(f"stream gave {len(stream)} samples, enhance {len(whole)}")
worst = abs(whole - stream).max()
print(f"stream equals enhance: {len(whole)} samples, largest difference {worst} of 32768")
sys.exit(int(worst > 1))  # one step: both round to 16 bits
PY
