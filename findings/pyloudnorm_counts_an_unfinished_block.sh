#!/usr/bin/env bash
# One sample more makes a steady tone .28 LU quieter for pyloudnorm: the number of gating blocks is rounded, and a last
# block that the signal fills only in part is counted as if silence filled the rest.
#
# Package: pyloudnorm 0.1.1 (numpy 2.4.6, scipy 1.17.1).
# Expected: the same loudness for every length of a steady tone; ITU-R BS.1770 says that an incomplete gating block at
# the end is not used. Short clips (words, claps) normalised to one loudness differ by their length.
# Seen: 997 Hz at full scale, 48 kHz, 21600 samples (.45 s): -3.05 LUFS; 21601 samples: -3.33 LUFS.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check pyloudnorm==0.1.1 numpy==2.4.6 scipy==1.17.1

"$folder/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pyloudnorm

rate = 48000
tone = np.sin(2 * np.pi * 997 * np.arange(rate) / rate)
meter = pyloudnorm.Meter(rate)
short, longer = (meter.integrated_loudness(tone[:n]) for n in (21600, 21601))
print(f"pyloudnorm {version('pyloudnorm')}: 21600 samples {short:.2f} LUFS, 21601 samples {longer:.2f} LUFS")
assert abs(short + 3.05) < 0.02, short
assert abs(short - longer - 0.28) < 0.02, longer
PYTHON
echo "as described"
