#!/usr/bin/env bash
# An encoder that learns to hear from hidden patches, on the corpus of ../denoise, in shards: a minute or two on two cores.
# ./run.sh --stage 4 --max-steps 500 starts at the training; what was done before and still holds is skipped.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=4
corpus=../denoise/corpus
data=data
exp=exp/mini
config=../../../recipes/pretrain/audio_mae.yaml
overrides=conf/small.yaml
shard_size=2
seconds=2.5
measured=
max_steps=60
batch_size=16
epoch_steps=30
train_options=
seed=0
cmd=local

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/shards valid_set=$data/valid measured_set=$data/train
. ../../utils/pretrain.sh

prepare() { # speech and noise are both sounds; those of the validation are of other readers and recordings
  for part in train valid; do
    for kind in speech noise; do audiomask data import folder "$corpus/$kind/$part" "$data/${kind}_$part" -f; done
    audiomask data combine "$data/$part" "$data"/{speech,noise}_$part -f
  done
  audiomask data validate "$data"/{train,valid}
}
shard() { # as a large corpus is read, from end to end
  audiomask data shard "$data/train" -o "$train_set" --size "$shard_size" -f
}

stage 1 prepare "$corpus"
stage 2 shard
stage 3 measure
stage 4 pretrain "$config" ${overrides:+"$overrides"} "$train_set" "$valid_set"
