#!/usr/bin/env bash
# A speech codec from recordings to packets in a pipe, on the corpus of ../denoise: a few minutes on two cores.
# ./run.sh --stage 2 --max-steps 500 starts at the training; what was done before and still holds is skipped.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=6
corpus=../denoise/corpus
data=data
exp=exp/mini
config=../../../recipes/codec/gist.yaml
rates="1.5 6"
max_steps=40
epoch_steps=40
batch_size=4
train_options=
seed=0
cmd=local
tests=speech_valid

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/speech_train valid_set=$data/speech_valid noise=$data/noise_train
. ../../utils/codec.sh
. ../../utils/mini.sh

packets() { # the same sound from packets in a pipe as from a file
  local/check_packets.sh "$exp/codec" "$corpus/demo/mixture_clean.flac"
}

stage 1 prepare "$corpus"
stage 2 train "$config"
stage 3 export_codec
stage 4 code_tests
stage 5 score_codec
stage 6 packets
