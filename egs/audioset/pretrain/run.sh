#!/usr/bin/env bash
# Audio-MAE on AudioSet, without labels; see RESULTS.md. ./run.sh --corpus DIR: the folder of its tables (*_segments.csv,
# class_labels_indices.csv), the clips below it, or --clips DIR. Videos cannot be downloaded from here.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=5
corpus=AudioSet
clips=
train_parts="balanced_train unbalanced_train"
valid_count=200
bad_files=skip
shard_size=256
data=data
exp=exp/audio_mae
config=../../../recipes/pretrain/audio_mae.yaml
overrides=
seconds=10
measured=5000
max_steps=126400
batch_size=512
epoch_steps=3830
train_options=
seed=0
cmd=local

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/shards valid_set=$data/valid measured_set=$data/${train_parts%% *}
. ../../utils/audioset.sh
. ../../utils/pretrain.sh

few() { # some clips of the evaluation set, for the curve of the validation: nothing is tested on them here
  audiomask data subset "$data/eval" "$valid_set" --count "$valid_count" --seed "$seed" -f
}

stage 1 prepare "$corpus"
stage 2 few
stage 3 shard
stage 4 measure
stage 5 pretrain "$config" ${overrides:+"$overrides"} "$train_set" "$valid_set"
