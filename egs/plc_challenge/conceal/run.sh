#!/usr/bin/env bash
# A concealer on the PLC Challenge of 2022, trained on its speech and traces, tested on its blind set; see RESULTS.md.
# ./run.sh downloads the corpus; ./run.sh --corpus DIR takes one that is unpacked already.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=6
corpus=
references=
noise=
bad_files=stop
split=train=0.98,valid=0.02
data=data
exp=exp/darn
config=../../../recipes/conceal/darn.yaml
max_steps=45000
batch_size=16
epoch_steps=500
train_options=
seed=0
cmd=local
tests=blind

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/split/train valid_set=$data/split/valid # with the losses that were recorded for the training
losses_of_training='[{class_path: audiomask.masks.packets.Recorded, init_args: {table: '$train_set/utt2trace'}}]'
. ../../utils/conceal.sh

get() { # resumed, checked and unpacked; nothing to do for a corpus that is there
  [ -n "$corpus" ] || python3 "$root/tools/get_corpus.py" conf/archives.tsv "$data/corpus"
}
prepare() { # recordings, and traces, that the training never meets are kept for the validation
  audiomask data import plc "${corpus:-$data/corpus}" "$data" ${references:+--references "$references"} \
    --bad-files "$bad_files" -f
  audiomask data split "$data/train" "$data/split" --ratio "$split" --seed "$seed" -f
  audiomask data validate "$data"/split/{train,valid} $(printf "$data/%s " $tests)
}
stage 1 get conf/archives.tsv
stage 2 prepare "${corpus:-$data/corpus}"
stage 3 train "$config" "$train_set" "$valid_set"
stage 4 export_model
stage 5 conceal_tests $(printf "$data/%s " $tests)
stage 6 score_tests
