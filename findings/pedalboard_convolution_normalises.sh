#!/usr/bin/env bash
# pedalboard.Convolution scales every impulse response to one energy: a unit impulse makes a signal eight times (18 dB)
# quieter, and a response of half the level makes no difference at all.
#
# Package: pedalboard 0.9.26 (numpy 2.4.6).
# Expected: the convolution, so that a unit impulse is the identity and the level of a measured room is kept; the
# documentation says "an audio convolution" and names no normalisation. Speech that is convolved with room responses
# for training loses the levels between rooms, and mix=0.5 is nine parts dry to one part wet, not even shares.
# Seen: responses [1], [0.5] and [100]: gain 0.1250 each; [1] with mix=0.5: 0.5625.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check pedalboard==0.9.26 numpy==2.4.6

"$folder/bin/python" - <<'PYTHON'
import numpy as np
import pedalboard

rate = 48000
noise = (0.1 * np.random.default_rng(0).standard_normal(rate)).astype(np.float32)


def gain(impulse, mix=1.0):
    out = pedalboard.Convolution(np.array([impulse], np.float32), mix=mix, sample_rate=rate)(noise, rate)
    found = float(out @ noise / (noise @ noise))
    assert np.abs(out - found * noise).max() < 1e-5, "not a plain gain"
    return found


gains = [gain(impulse) for impulse in (1.0, 0.5, 100.0)]
half = gain(1.0, mix=0.5)
print(f"pedalboard {pedalboard.__version__}:", *(f"{found:.4f}" for found in gains), f"mix 0.5: {half:.4f}")
assert np.allclose(gains, 0.125, atol=1e-4), gains
assert abs(half - 0.5625) < 1e-4, half
PYTHON
echo "as described"
