#!/usr/bin/env bash
# A tagger on ESC-10, five folds; see RESULTS.md. --start-from DIR begins with a pretrained encoder, --sounds DIR pretrains one.
# ./run.sh downloads ESC-50 (0.65 GB), which holds it; ./run.sh --corpus DIR takes one that is unpacked already.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=8
corpus=
folds="1 2 3 4 5"
bad_files=stop
data=data
exp=exp/audio_mae
start_from=
sounds=
pretrain_config=../../../recipes/pretrain/audio_mae.yaml
pretrain_steps=20000
pretrain_options=
config=../../../recipes/classify/audio_mae.yaml
overrides=../../esc50/classify/conf/esc.yaml
seconds=5
measured=
max_steps=1000
batch_size=32
epoch_steps=10
train_options=
seed=0
cmd=local

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
layout=esc10
. ../../utils/esc.sh # the stages
