#!/usr/bin/env bash
# A tagger on AudioSet-20K, or with --train-parts "balanced_train unbalanced_train" on AudioSet-2M; see RESULTS.md.
# ./run.sh --corpus DIR [--clips DIR], as ../pretrain, whose encoder --start-from ../pretrain/exp/audio_mae takes.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=6
corpus=AudioSet
clips=
train_parts=balanced_train
bad_files=skip
shard_size=256
data=data
exp=exp/audio_mae
start_from=
config=../../../recipes/classify/audio_mae.yaml
overrides=conf/20k.yaml
seconds=10
measured=5000
max_steps=38000
batch_size=32
epoch_steps=630
train_options=
seed=0
cmd=local

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
tests=eval train_set=$data/shards train_sets=$data/shards measured_set=$data/${train_parts%% *}
valid_set= sounds= # the evaluation set chooses nothing
. ../../utils/audioset.sh
. ../../utils/classify.sh

stage 1 prepare "$corpus"
stage 2 shard
stage 3 measure
stage 4 fine_tune "$config" ${overrides:+"$overrides"} "$train_set" "$data/eval"
stage 5 gather
stage 6 tag
