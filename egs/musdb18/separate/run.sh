#!/usr/bin/env bash
# A separator of drums, bass, other and vocals on MUSDB18-HQ, tested on its 50 songs; see RESULTS.md.
# ./run.sh --corpus DIR, with the folders train and test as the archive has them. MUSDB18's .stem.mp4 are unpacked first.
set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=8
corpus=
bad_files=stop
data=data
exp=exp/prism
config=../../../recipes/separate/prism_music.yaml
masks=none,ratio,wiener,complex_bounded
max_steps=100000
batch_size=8
epoch_steps=1000
train_options=
seed=0
cmd=local
tests=test

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/train valid_set=$data/valid
. ../../utils/musdb18.sh
. ../../utils/separate.sh

stage 1 unpack "$corpus"
stage 2 prepare "$corpus"
stage 3 train "$config" "$train_set" "$valid_set"
stage 4 export_model
stage 5 separate_tests "$data/test"
stage 6 score_separated
stage 7 score_ideal
stage 8 report ../../utils/separation_report.py
