#!/usr/bin/env bash
# A concealer from recordings to numbered packets, on the corpus of ../denoise: a few minutes on two cores.
# ./run.sh --stage 3 --max-steps 500 starts at the training; what was done before and still holds is skipped.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=7
corpus=../denoise/corpus
data=data
exp=exp/mini
config=../../../recipes/conceal/darn.yaml
loss=gilbert:0.1,0.5
max_steps=40
epoch_steps=40
batch_size=4
train_options=
seed=0
cmd=local
tests=lossy

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/speech_train valid_set=$data/lossy noise=$data/noise_train
losses_of_training= # those of the recipe
. ../../utils/conceal.sh
. ../../utils/mini.sh

lose() { # fixed losses for readers that the training never meets
  audiomask data lose "$data/speech_valid" "$data/lossy" --loss "$loss" --seed "$seed" -f
}
packets() { # the same samples from numbered packets, some of them late, twice or out of order
  local/check_packets.sh "$exp/model.onnx" "$corpus/demo/mixture_clean.flac"
}

stage 1 prepare "$corpus"
stage 2 lose
stage 3 train "$config"
stage 4 export_model
stage 5 conceal_tests
stage 6 score_tests
stage 7 packets
