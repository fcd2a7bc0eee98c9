#!/usr/bin/env bash
# A separator of speech, music and effects on Divide and Remaster (DnR), tested on its test part; see RESULTS.md.
# ./run.sh --corpus DIR, with the folders tr, cv and tt of version 2. Version 3: its folder of languages, --rate 48000.
set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=7
corpus=
bad_files=stop
data=data
exp=exp/prism
config=../../../recipes/separate/prism.yaml
rate=44100
channels=1
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
train_options="--model.model.sample_rate $rate --model.model.channels $channels --data.channels $channels $train_options"
train_set=$data/train valid_set=$data/valid
. ../../utils/separate.sh
[ -n "$corpus" ] || { echo "$0: error: name the unpacked DnR with --corpus" >&2; exit 2; }

prepare() { # the corpus has parts of its own
  audiomask data import dnr "$corpus" "$data" --bad-files "$bad_files" -f
  audiomask data validate "$train_set" "$valid_set" "$data/test"
}

stage 1 prepare "$corpus"
stage 2 train "$config" "$train_set" "$valid_set"
stage 3 export_model
stage 4 separate_tests "$data/test"
stage 5 score_separated
stage 6 score_ideal
stage 7 report ../../utils/separation_report.py
