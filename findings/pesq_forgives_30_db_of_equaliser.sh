#!/usr/bin/env bash
# PESQ hears hardly an equaliser: speech of which all but 450 to 750 Hz is turned down by 30 dB, which is a hum to the
# ear, scores 4.1. A network that learns PESQ as its main loss finds this way out: a codec of ours put all its
# sound between 500 and 700 Hz and had 3.4.
#
# Package: pesq 0.0.4 (numpy 2.4.6, scipy 1.17.1); speech: sample.wav of pyannote.audio 3.3.2.
# Expected: a score below that of speech which is easily understood: Opus at 8 kbit/s has 3.3 (docs/codec.md).
# Seen: PESQ-WB 4.53, 4.30 and 4.06 with 10, 20 and 30 dB. P.862 equalises the reference to the degraded signal, each band
# by up to 20 dB, before it compares them, so that the frequency response of a line counts little.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check pesq==0.0.4 numpy==2.4.6 scipy==1.17.1
"$folder/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$folder" pyannote.audio==3.3.2

FOLDER=$folder "$folder/bin/python" - <<'PYTHON'
import os
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pesq import pesq
from scipy.io import wavfile
from scipy.signal import fftconvolve, firwin2

(wheel,) = Path(os.environ["FOLDER"]).glob("pyannote*.whl")
with zipfile.ZipFile(wheel) as archive, archive.open("pyannote/audio/sample/sample.wav") as file:
    rate, samples = wavfile.read(file)
speech = samples[: 10 * rate] / 32768
scores = {}
for db in (10, 20, 30):
    low = 10 ** (-db / 20)
    taps = firwin2(1025, [0, 400, 450, 750, 800, 8000], [low, low, 1, 1, low, low], fs=rate)
    scores[db] = pesq(rate, speech, fftconvolve(speech, taps, "same"), "wb")
print(f"pesq {version('pesq')}, {rate} Hz:", {db: round(score, 2) for db, score in scores.items()})
assert abs(scores[20] - 4.30) < 0.05 and abs(scores[30] - 4.06) < 0.05, scores
PYTHON
echo "as described"
