#!/usr/bin/env bash
# moshi's streaming transformer, which Mimi is made of, is another network when a step brings several frames: once the
# stream is as long as its context, each frame but the last of a step sees fewer frames than offline.
#
# Package: moshi 0.2.13 (with torch 2.13.0, einops 0.8.2; moshi asks for torch < 2.10 and is installed without its pins).
# Expected: the offline output, whatever the steps, as in the first frames. The key/value ring has as many places as the
# context, and all frames of a step are written before the first of them reads, so the oldest are already gone.
# Seen: of a context of 16 frames, outputs of 64: steps of 1 frame are equal to 1e-6; steps of 2, 4 and 8 are until the
# 16th frame, and from there .11, .20 and .34 apart at most (outputs are about 1).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 einops==0.8.2 safetensors==0.7.0 "huggingface-hub<1" sentencepiece==0.2.1 tqdm
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps moshi==0.2.13

"$folder/bin/python" - <<'PYTHON'
import torch
from moshi.modules.transformer import StreamingTransformer

torch.manual_seed(0)
shape = {"d_model": 64, "num_heads": 4, "num_layers": 2, "dim_feedforward": 128}
network = StreamingTransformer(**shape, causal=True, context=16, positional_embedding="rope").eval()
x = torch.randn(1, 64, 64)
with torch.no_grad():
    offline = network(x)
    for size in (1, 2, 4, 8):
        with network.streaming(1):
            live = torch.cat([network(part) for part in x.split(size, 1)], 1)
        apart = (live - offline).abs().amax((0, 2))
        print(f"steps of {size}: {apart[:16].max():.1e} in the first 16 frames, {apart[16:].max():.1e} after them")
        assert apart[:16].max() < 1e-5
        assert apart[16:].max() < 1e-5 if size == 1 else apart[16:].max() > 0.05
PYTHON
echo "as described"
