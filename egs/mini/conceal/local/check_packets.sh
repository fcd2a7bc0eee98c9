#!/usr/bin/env bash
# Usage: check_packets.sh MODEL FILE. A 16-bit mono file as numbered packets, a tenth of them lost, through `stream`: late
# by a place or two and some of them twice they must give the samples that they give in order, which are those of `conceal`.

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 - "$2" "$folder" << 'PY'
import random
import struct
import sys

import soundfile

x, rate = soundfile.read(sys.argv[1], dtype="int16")
size, draw = rate // 50, random.Random(0)
packets = [x[i : i + size].tobytes().ljust(2 * size, b"\0") for i in range(0, len(x), size)]
lost = [draw.random() < 0.1 for _ in packets]
lost[-1] = False  # or nobody would know how long it is
with open(f"{sys.argv[2]}/trace.txt", "w") as file:
    file.writelines(f"{int(gone)}\n" for gone in lost)
records = [struct.pack("<IH", n, 2 * size) + p for n, p in enumerate(packets) if not lost[n]]
mixed, i = [], 0
while i < len(records):
    pair = records[i : i + 2]
    if draw.random() < 0.1:
        pair.reverse()
    mixed += pair + [pair[0]] * (draw.random() < 0.1)
    i += 2
for name, order in (("in_order", records), ("mixed", mixed)):
    with open(f"{sys.argv[2]}/{name}.packets", "wb") as file:
        file.writelines(order)
soundfile.write(f"{sys.argv[2]}/sent.wav", x, rate, subtype="PCM_16")
PY
rate=$(python3 -c 'import soundfile, sys; print(soundfile.info(sys.argv[1]).samplerate)' "$2")
for order in in_order mixed; do
  audiomask stream -m "$1" --packets 20 --jitter 60 --rate "$rate" < "$folder/$order.packets" > "$folder/$order.raw"
done
audiomask conceal "$folder/sent.wav" -m "$1" --loss "$folder/trace.txt" -o "$folder/whole.wav" -q
python3 - "$folder" << 'PY'
import sys

import numpy
import soundfile

whole = soundfile.read(f"{sys.argv[1]}/whole.wav", dtype="int16")[0].astype(int)
in_order, mixed = (numpy.fromfile(f"{sys.argv[1]}/{name}.raw", "<i2").astype(int) for name in ("in_order", "mixed"))
if not numpy.array_equal(in_order, mixed):
    sys.exit(f"{len(mixed)} samples of packets out of order differ from the {len(in_order)} of packets in order")
worst = abs(in_order[: len(whole)] - whole).max()
print(f"packets equal conceal: {len(whole)} samples, largest difference {worst} of 32768")
sys.exit(int(worst > 1))  # one step: both round to 16 bits
PY
