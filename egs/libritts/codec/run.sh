#!/usr/bin/env bash
# A speech codec on LibriTTS, tested at several rates on readers of its own; see RESULTS.md.
# ./run.sh downloads train-clean-100, dev-clean and test-clean; ./run.sh --corpus DIR takes what is unpacked already.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=6
corpus=
train_parts="train-clean-100"
noise=
count=100
rates="1.5 3 6 9"
bad_files=stop
data=data
exp=exp/gist
config=../../../recipes/codec/gist.yaml
max_steps=60000
batch_size=16
epoch_steps=500
train_options=
seed=0
cmd=local
tests=test

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/train valid_set=$data/valid
. ../../utils/codec.sh

get() { # resumed, checked and unpacked; nothing to do for a corpus that is there
  local parts="$train_parts dev-clean test-clean"
  [ -n "$corpus" ] || python3 "$root/tools/corpora/get_corpus.py" conf/archives.tsv "$data/corpus" \
    --only $(printf '%s.tar.gz ' $parts)
}
prepare() { # readers are speakers; dev-clean selects the model, test-clean tests it
  local from=${corpus:-$data/corpus/LibriTTS} lists=()
  for part in $train_parts dev-clean test-clean; do
    audiomask data import folder "$from/$part" "$data/$part" --speaker '([0-9]+)_' --bad-files "$bad_files" -f
  done
  for part in $train_parts; do lists+=("$data/$part"); done
  audiomask data combine "$train_set" "${lists[@]}" -f
  audiomask data subset "$data/dev-clean" "$valid_set" --count "$count" --seed "$seed" -f
  audiomask data subset "$data/test-clean" "$data/test_24k" --count "$count" --seed "$seed" -f
  audiomask data convert "$data/test_24k" "$data/test" --rate 16000 -f # the rate of the scores
  audiomask data validate "$train_set" "$valid_set" "$data/test"
}

stage 1 get conf/archives.tsv
stage 2 prepare "${corpus:-$data/corpus}"
stage 3 train "$config" "$train_set" "$valid_set"
stage 4 export_codec
stage 5 code_tests "$data/test"
stage 6 score_codec
