#!/usr/bin/env bash
# A concealer on VCTK with losses of Markov chains, tested at several rates on talkers of its own; see RESULTS.md.
# ./run.sh downloads the corpus (11.7 GB); ./run.sh --corpus DIR takes one that is unpacked already.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=7
corpus=
noise=
valid_speakers=p226,p287
test_speakers=p232,p257
count=100
losses="gilbert10=gilbert:0.0556,0.5 gilbert30=gilbert:0.2143,0.5 drop10=drop:0.1 drop30=drop:0.3 drop50=drop:0.5"
bad_files=stop
data=data
exp=exp/darn
config=../../../recipes/conceal/darn.yaml
max_steps=45000
batch_size=16
epoch_steps=500
train_options=
seed=0
cmd=local

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/train valid_set=$data/valid tests=$(sed -E 's/=[^ ]*//g' <<< "$losses")
. ../../utils/conceal.sh

get() { # resumed, checked and unpacked; nothing to do for a corpus that is there
  [ -n "$corpus" ] || python3 "$root/tools/get_corpus.py" conf/archives.tsv "$data/corpus"
}
prepare() { # two talkers select the model, two others test it
  audiomask data import vctk "${corpus:-$data/corpus}" "$data/all" --bad-files "$bad_files" -f
  audiomask data subset "$data/all" "$train_set" --speakers "$valid_speakers,$test_speakers" --exclude -f
  for part in "valid $valid_speakers" "test $test_speakers"; do
    set -- $part
    audiomask data subset "$data/all" "$data/talkers_$1" --speakers "$2" -f
    audiomask data subset "$data/talkers_$1" "$data/some_$1" --count "$count" --seed "$seed" -f
  done
  audiomask data validate "$train_set" "$data"/some_{valid,test}
}
lose() { # at 16 kHz, which the published figures are of; each loss makes a test set of the same recordings
  for part in valid test; do audiomask data convert "$data/some_$part" "$data/16k_$part" --rate 16000 -f; done
  audiomask data lose "$data/16k_valid" "$valid_set" --loss gilbert:0.1,0.4 --seed "$seed" -f
  for loss in $losses; do audiomask data lose "$data/16k_test" "$data/${loss%%=*}" --loss "${loss#*=}" --seed "$seed" -f; done
}

stage 1 get conf/archives.tsv
stage 2 prepare "${corpus:-$data/corpus}"
stage 3 lose "$data"/some_{valid,test}
stage 4 train "$config" "$train_set" "$valid_set"
stage 5 export_model
stage 6 conceal_tests $(printf "$data/%s " $tests)
stage 7 score_tests
