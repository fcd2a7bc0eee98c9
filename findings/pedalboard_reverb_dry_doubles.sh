#!/usr/bin/env bash
# pedalboard.Reverb(wet_level=0, dry_level=1) doubles every sample: a dry level of 1 is a gain of 2, and 0.5 is the
# one that leaves a signal as it is.
#
# Package: pedalboard 0.9.26 (numpy 2.4.6).
# Expected: levels of 0 and 1 mean none and all, so that nothing wet and all dry is the identity, as mix=0 is for
# pedalboard.Delay. Clean targets made with this setting are 6 dB above their noisy inputs, and the default of 0.4
# gives 0.8.
# Seen: Reverb(wet_level=0, dry_level=1): 2.000; dry_level=0.5: 1.000; Delay(mix=0): 1.000.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check pedalboard==0.9.26 numpy==2.4.6

"$folder/bin/python" - <<'PYTHON'
import numpy as np
import pedalboard

rate = 48000
noise = (0.1 * np.random.default_rng(0).standard_normal(2 * rate)).astype(np.float32)


def factor(plugin):
    out = plugin(noise, rate)[rate:]  # settled
    found = float(out @ noise[rate:] / (noise[rate:] @ noise[rate:]))
    assert np.abs(out - found * noise[rate:]).max() < 1e-5, "not a plain gain"
    return found


whole = factor(pedalboard.Reverb(wet_level=0.0, dry_level=1.0))
half = factor(pedalboard.Reverb(wet_level=0.0, dry_level=0.5))
delay = factor(pedalboard.Delay(mix=0.0))
print(f"pedalboard {pedalboard.__version__}: dry 1: {whole:.3f}, dry 0.5: {half:.3f}, Delay(mix=0): {delay:.3f}")
assert abs(whole - 2) < 1e-3, whole
assert abs(half - 1) < 1e-3, half
assert abs(delay - 1) < 1e-3, delay
PYTHON
echo "as described"
