#!/usr/bin/env bash
# AWARE gives marked sound back at another level: it divides by the largest magnitude and then multiplies by the highest
# sample, so that speech which swings further down than up is several dB softer afterwards. The last samples go too.
#
# Package: aware 2.0.1 (torch 2.13.0, librosa 0.11.0; it asks for torch 2.7.1 and numpy 1.26.4 and is installed without
# its pins); speech: sample.wav of pyannote.audio 3.3.2.
# Expected: the level and the length of the input, from a mark of which one should hear nothing, and the same for the
# recording upside down. Voices are lopsided, so which way up a microphone is wired decides the level.
# Seen: 2 s with samples from -.320 to .193: 31840 samples in, 31744 out, 4.29 dB softer; upside down .15 dB louder.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scipy==1.17.1 librosa==0.11.0 \
  resampy==0.4.3 webrtcvad-wheels==2.0.14 pyyaml==6.0.3 "setuptools<81"
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps aware==2.0.1
"$folder/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$folder" pyannote.audio==3.3.2

FOLDER=$folder OMP_NUM_THREADS=1 "$folder/bin/python" - <<'PYTHON'
import os
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.io import wavfile

warnings.simplefilter("ignore")
from aware.service import embed_watermark
from aware.utils.models import load

(wheel,) = Path(os.environ["FOLDER"]).glob("pyannote*.whl")
with zipfile.ZipFile(wheel) as archive, archive.open("pyannote/audio/sample/sample.wav") as file:
    rate, samples = wavfile.read(file)
speech = samples[round(7.25 * rate) : round(9.24 * rate)].astype(np.float32) / 32768
embedder, _ = load("AWARE")
bits = np.arange(20) % 2
gains = {}
for name, x in (("speech", speech), ("upside down", -speech)):
    y = embed_watermark(x, rate, bits, embedder)
    same = x[: len(y)]
    gains[name] = 20 * np.log10(same @ y / (same @ same))
    print(f"aware {version('aware')}, {name}: samples from {x.min():.3f} to {x.max():.3f}, {len(x)} in and "
          f"{len(y)} out, {gains[name]:+.2f} dB")
    assert len(y) == 31744, len(y)
assert abs(gains["speech"] - gains["upside down"] - 20 * np.log10(0.193 / 0.320)) < 0.3, gains
assert abs(gains["upside down"]) < 1, gains
PYTHON
echo "as described"
