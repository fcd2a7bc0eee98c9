#!/usr/bin/env bash
# A codec for stereo music on MUSDB18-HQ, tested on its 50 songs; see RESULTS.md.
# ./run.sh --corpus DIR, with the folders train and test as the archive has them. MUSDB18's .stem.mp4 are unpacked first.
set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=6
corpus=
bad_files=stop
data=data
exp=exp/walloc
config=../../../recipes/codec/walloc.yaml
books=
max_steps=300000
batch_size=32
epoch_steps=10000
train_options=
seed=0
cmd=local
tests=test

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/train valid_set=$data/valid noise="" metrics=si_sdr,lsd
. ../../utils/codec.sh
. ../../utils/train.sh
. ../../utils/musdb18.sh

play_tests() { # through both parts, in constant memory: with all codebooks, or as many as --books names
  for part in $tests; do $enhance_cmd python3 local/there_and_back.py "$exp/codec" "$data/$part" "$exp/decoded/$part" \
    --books ${books:-all}; done
}
score_tests() {
  for part in $tests; do for count in ${books:-all}; do
    echo "$part, books: $count, $(cat "$exp/decoded/$part/$count/kbps")"
    audiomask score --ref "$data/$part" --est "$exp/decoded/$part/$count" --metrics "$metrics" \
      --json "$exp/scores_${part}_$count.json" -f
  done; done
}

stage 1 unpack "$corpus"
stage 2 prepare "$corpus"
stage 3 train "$config" "$train_set" "$valid_set"
stage 4 export_codec
stage 5 play_tests "$data/test" local/there_and_back.py
stage 6 score_tests
