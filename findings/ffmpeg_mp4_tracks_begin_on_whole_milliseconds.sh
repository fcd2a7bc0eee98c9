#!/usr/bin/env bash
# A sound track that FFmpeg writes into an MP4 with a beginning of its own is moved to a whole millisecond: its edit list
# counts in the movie's time scale, which is 1000 by default, whatever the tracks' own are.
#
# Package: av 18.1.0 (FFmpeg 8), numpy 2.4.6.
# Expected: sound whose first time stamp is 9600 at 48 kHz begins at sample 9600, since the track counts in 1/48000 s.
# Sound that is taken out, processed and put back is off by up to 47 samples against the picture, each time again.
# Seen: with the default the track begins at 8544 (178 ms; 9600 less the encoder's 1024 is 8576); with the option
# movie_timescale=48000 at 8576.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6

"$folder/bin/python" - "$folder" <<'PYTHON'
import sys
from fractions import Fraction

import av
import numpy as np

RATE = 48000


def begins(options):
    path = f"{sys.argv[1]}/late.mp4"
    with av.open(path, "w", options=options) as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        sound = out.add_stream("aac", rate=RATE, layout="mono")
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        out.mux(video.encode(picture))
        for i in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 9600 + 1024 * i
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
        out.mux(video.encode(None))
    with av.open(path) as file:
        track = file.streams.audio[0]
        return round(track.start_time * track.time_base * RATE)


plain, fine = begins({}), begins({"movie_timescale": str(RATE)})
print(f"av {av.__version__}: the track begins at sample {plain}, with movie_timescale at {fine}")
assert av.__version__ == "18.1.0", av.__version__
assert (plain, fine) == (8544, 8576), (plain, fine)
PYTHON
echo "as described"
