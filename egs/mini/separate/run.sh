#!/usr/bin/env bash
# A separator of speech, music and effects from recordings to scores, on the corpus of ../denoise: a minute on a core.
# ./run.sh --small "" --max-steps 500 trains it in full size; what was done before and still holds is skipped.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=8
corpus=../denoise/corpus
data=data
exp=exp/mini
config=../../../recipes/separate/prism.yaml
small="--model.model.width 12 --model.model.blocks 1 --model.model.full 32 --model.model.squeeze 16
  --model.model.hidden 24 --model.warmup 5 --data.segment 48000 --data.clips 4"
pieces=6
piece_s=8
mixes=3
mix_s=4
masks=none,ratio,wiener,complex_bounded
max_steps=20
epoch_steps=20
batch_size=4
train_options=
seed=0
cmd=local
tests=mixes

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_options="$small $train_options"
train_set=$data/train valid_set=$data/valid
. ../../utils/separate.sh

prepare() { # a data directory for each stem; music is made here, as the corpus has none
  for part in train valid; do
    python3 local/compose.py "$data/music/$part" "$pieces" "$piece_s" "$part $seed"
    audiomask data import librispeech "$corpus/speech/$part" "$data/$part/speech" -f
    audiomask data import folder "$data/music/$part" "$data/$part/music" --speaker file -f
    audiomask data import folder "$corpus/noise/$part" "$data/$part/effects" -f
    audiomask data validate "$data/$part"/{speech,music,effects}
  done
}
mix() { # fixed ones, of what the training never meets
  python3 "$root/tools/corpora/mix_stems.py" "$valid_set" --stems speech music effects --count "$mixes" \
    --seconds "$mix_s" --seed "$seed" -o "$data/mixes"
}

stage 1 prepare "$corpus" local/compose.py
stage 2 mix "$root/tools/corpora/mix_stems.py"
stage 3 train "$config"
stage 4 export_model
stage 5 separate_tests
stage 6 score_separated
stage 7 score_ideal
stage 8 report ../../utils/separation_report.py
