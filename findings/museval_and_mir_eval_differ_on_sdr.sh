#!/usr/bin/env bash
# Two packages of the field call two measures SDR. museval fits filters of 512 taps too, but its SDR does not use them: with
# filters of one tap it is the same to the last digits, and what is late by ten samples is wrong. mir_eval's SDR takes the
# best filter of 512 taps first, and so forgives any delay and equaliser below that length. Scores that papers call SDR differ
# by 40 dB and more on one and the same estimate.
#
# Packages: museval 0.4.1, mir_eval 0.8.2 (numpy 2.2.6, scipy 1.15.3); signals: two sources of seeded white noise, the
# estimates are the sources ten samples late.
# Expected: the SDR of both near each other, or museval's to depend on the length of its filters.
# Seen: museval's SDR -3.0 dB with filters of 1 and of 512 taps alike; mir_eval's 35.6 dB.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check numpy==2.2.6 scipy==1.15.3 decorator==5.2.1
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps museval==0.4.1 mir_eval==0.8.2

"$folder/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import importlib.util

import numpy as np
from mir_eval.separation import bss_eval_sources

# the package itself wants FFmpeg at its import
where = importlib.util.find_spec("museval").submodule_search_locations[0]
spec = importlib.util.spec_from_file_location("metrics", f"{where}/metrics.py")
museval = importlib.util.module_from_spec(spec)
spec.loader.exec_module(museval)

rng = np.random.default_rng(0)
sources = rng.standard_normal((2, 44100, 1))
late = np.roll(sources, 10, axis=1)
found = {}
for taps in (1, 512):
    sdr, *_ = museval.bss_eval(sources, late, window=np.inf, hop=np.inf, filters_len=taps, compute_permutation=False)
    found[taps] = float(np.mean(sdr))
other, *_ = bss_eval_sources(sources[..., 0], late[..., 0], compute_permutation=False)
theirs = float(np.mean(other))
print({name: importlib.metadata.version(name) for name in ("museval", "mir_eval")})
print(f"museval's SDR {found[1]:.3f} dB with 1 tap, {found[512]:.3f} with 512; mir_eval's {theirs:.1f}")
assert abs(found[1] - found[512]) < 1e-6 and abs(found[1] + 3.01) < 0.2, found
assert theirs > 25, theirs
PYTHON
echo "as described"
