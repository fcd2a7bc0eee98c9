#!/usr/bin/env bash
# An HTK waveform file that soundfile writes at 44.1 kHz is read back as one at 44,247 Hz, without a warning: the
# header holds the sample period in units of 100 ns, and 226.76 of them are cut to 226.
#
# Package: soundfile 0.14.0 with libsndfile 1.2.2 (numpy 2.4.6).
# Expected: the rate that was given, as with WAV, AIFF, AU, FLAC, CAF and W64, or a refusal of a rate that the format
# cannot hold (soundfile refuses Opus at 44.1 kHz); nearest would be 227, which is 44,053 Hz. The samples are exact, but one
# hour of them lasts 12 s less, and alignments in seconds drift by .33 %.
# Seen: 8000 -> 8000, 11025 -> 11025, 16000 -> 16000, 22050 -> 22075, 44100 -> 44247, 48000 -> 48076.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6

"$folder/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import soundfile

path, found = f"{sys.argv[1]}/tone.htk", {}
for rate in (8000, 11025, 16000, 22050, 44100, 48000):
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.int16)
    soundfile.write(path, tone, rate, format="HTK", subtype="PCM_16")
    back, found[rate] = soundfile.read(path, dtype="int16")
    assert np.array_equal(back, tone)
print(soundfile.__version__, soundfile.__libsndfile_version__, found)
assert found == {8000: 8000, 11025: 11025, 16000: 16000, 22050: 22075, 44100: 44247, 48000: 48076}
PYTHON
echo "as described"
