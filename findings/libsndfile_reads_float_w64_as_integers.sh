#!/usr/bin/env bash
# A W64 file of 32-bit float with more than two channels, as FFmpeg writes it, is read by libsndfile as 32-bit integers: loud
# noise instead of sound. The header is WAVE_FORMAT_EXTENSIBLE, whose coding stands in its GUID; of W64, libsndfile takes every
# such header for PCM. The same header in a WAV is read rightly.
#
# Package: av 18.1.0 (FFmpeg 8), soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6.
# Expected: a sine of amplitude .5 in three channels, with subtype FLOAT, from the W64 as from the WAV.
# Seen: from the WAV FLOAT and the sine; from the W64 PCM_32, and samples that are up to .53 off.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 soundfile==0.14.0 numpy==2.4.6

"$folder/bin/python" - "$folder" <<'PYTHON'
import sys

import av
import numpy as np
import soundfile as sf

x = np.repeat((np.sin(np.arange(4800) * 0.05) * 0.5).astype(np.float32)[:, None], 3, 1)
found = {}
for suffix in ("wav", "w64"):
    path = f"{sys.argv[1]}/a.{suffix}"
    with av.open(path, "w") as out:
        stream = out.add_stream("pcm_f32le", rate=48000, layout="3.0")
        frame = av.AudioFrame.from_ndarray(x.reshape(1, -1), format="flt", layout="3.0")
        frame.sample_rate, frame.pts = 48000, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    y, _ = sf.read(path)
    found[suffix] = sf.info(path).subtype, round(float(np.abs(y[: len(x)] - x).max()), 2)
    print(f"{suffix}: {found[suffix][0]}, samples differ by up to {found[suffix][1]}")
assert (av.__version__, sf.__libsndfile_version__) == ("18.1.0", "1.2.2")
assert found == {"wav": ("FLOAT", 0.0), "w64": ("PCM_32", 0.53)}, found
PYTHON
echo "as described"
