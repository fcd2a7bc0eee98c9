#!/usr/bin/env bash
# Five channels that FFmpeg codes by libopus come back in other places: of "5.0", the centre ends up as the second of the
# surrounds and both of these one place further to the front. Six channels ("5.1") and four ("quad") keep their places.
#
# Package: av 18.1.0 (FFmpeg 8 with libopus), numpy 2.4.6.
# Expected: channel i of the input is channel i of the output, as the layout's name is the same on both sides.
# Seen, input channel that is heard in each output channel: quad 0 1 2 3; 5.0 0 1 3 4 2; 5.1 0 1 2 3 4 5.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6

"$folder/bin/python" - <<'PYTHON'
import av
import numpy as np


def order(layout):
    """Code a tone of its own in each channel, 24 Hz apart, and say which one is heard in which."""
    n = av.AudioLayout(layout).nb_channels
    tones = np.sin(2 * np.pi * 12 * np.arange(1, n + 1) * np.arange(36000)[:, None] / 48000) / 4
    encoder, decoder = av.CodecContext.create("libopus", "w"), av.CodecContext.create("libopus", "r")
    encoder.sample_rate, encoder.layout, encoder.format = 48000, layout, "flt"
    encoder.open()
    decoder.extradata = encoder.extradata
    frame = av.AudioFrame.from_ndarray(tones.reshape(1, -1).astype(np.float32), format="flt", layout=layout)
    frame.sample_rate = 48000
    cut = av.AudioResampler("flt", layout, 48000, encoder.frame_size)
    packed = av.AudioResampler("flt", layout, 48000)
    packets = [packet for part in cut.resample(frame) for packet in encoder.encode(part)]
    heard = [y.to_ndarray() for p in packets for part in decoder.decode(p) for y in packed.resample(part)]
    sound = np.concatenate(heard, 1).reshape(-1, n)[8000:32000]
    power = np.abs(np.fft.rfft(sound, axis=0))[6 * np.arange(1, n + 1)]  # bins of 2 Hz
    return power.argmax(0).tolist()


found = {layout: order(layout) for layout in ("quad", "5.0", "5.1")}
print(f"av {av.__version__}: {found}")
assert av.__version__ == "18.1.0", av.__version__
assert found == {"quad": [0, 1, 2, 3], "5.0": [0, 1, 3, 4, 2], "5.1": [0, 1, 2, 3, 4, 5]}, found
PYTHON
echo "as described"
