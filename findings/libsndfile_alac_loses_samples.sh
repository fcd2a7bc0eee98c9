#!/usr/bin/env bash
# ALAC is lossless, and CAF files of 24 bits that libsndfile writes are not, if they are short and have two channels; those
# of 20 bits are not at any length. Mono, 16 bits and longer files of 24 bits come back exactly. Nothing is reported.
#
# Package: soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6.
# Expected: what is read is what was written, since ALAC_24 and ALAC_20 are lossless codings.
# Seen, noise at a quarter of full scale, fraction of samples that differ: 24 bits, stereo: 1.00 at 1000 frames, 0 at 5000;
# 20 bits, stereo: 1.00 at both; mono and 16 bits: 0.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6

"$folder/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import soundfile as sf

found = {}
for bits in (16, 20, 24):
    for channels in (1, 2):
        for frames in (1000, 5000):
            limit = 2 ** (bits - 3)
            x = np.random.default_rng(0).integers(-limit, limit, (frames, channels)) << (32 - bits)
            sf.write(f"{sys.argv[1]}/a.caf", x.astype(np.int32), 48000, subtype=f"ALAC_{bits}")
            y, _ = sf.read(f"{sys.argv[1]}/a.caf", dtype="int32", always_2d=True)
            assert y.shape == x.shape
            found[bits, channels, frames] = round(float((x != y).mean()), 2)
            print(f"{bits} bits, {channels} channels, {frames} frames: {found[bits, channels, frames]} differ")
wrong = {key for key, share in found.items() if share}
assert sf.__libsndfile_version__ == "1.2.2", sf.__libsndfile_version__
assert wrong == {(24, 2, 1000), (20, 2, 1000), (20, 2, 5000)}, wrong
PYTHON
echo "as described"
