#!/usr/bin/env bash
# A tagger of spoken words on Speech Commands; see RESULTS.md. --version 0.01, --classes 12 for ten words, others and silence.
# ./run.sh downloads the corpus (2.4 GB); ./run.sh --corpus DIR takes one that is unpacked already, --test DIR its test archive.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=7
corpus=
test=
version=0.02
classes=words
bad_files=stop
data=data
exp=exp/audio_mae
start_from=
sounds=
pretrain_config=../../../recipes/pretrain/audio_mae.yaml
pretrain_steps=20000
pretrain_options=
config=../../../recipes/classify/audio_mae.yaml
overrides=conf/words.yaml
seconds=1
measured=5000
max_steps=40000
batch_size=256
epoch_steps=330
train_options=
seed=0
cmd=local

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
tests=test train_sets=$data/train valid_set=$data/valid
. ../../utils/classify.sh

get_words() { # and for the twelve classes their test archive, into a folder of its own
  [ -n "$corpus" ] || python3 "$root/tools/corpora/get_corpus.py" conf/archives.tsv "$data/corpus" \
    --only "speech_commands_v$version.tar.gz"
  [ "$classes" = words ] || [ -n "$test" ] || python3 "$root/tools/corpora/get_corpus.py" conf/archives.tsv \
    "$data/test_archive" --only "speech_commands_test_set_v$version.tar.gz"
}
prepare() { # the lists of the corpus say what validates and what tests; the twelve have their own test set
  local twelve=()
  if [ "$classes" = 12 ]; then twelve=(--test "${test:-$data/test_archive}"); fi
  audiomask data import speechcommands "${corpus:-$data/corpus}" "$data" --classes "$classes" "${twelve[@]}" \
    --bad-files "$bad_files" -f
  audiomask data validate "$data"/{train,valid,test}
}

stage 1 get_words conf/archives.tsv
stage 2 prepare "${corpus:-$data/corpus}"
stage 3 measure "$data/train"
stage 4 pretrain "$pretrain_config" ${sounds:+"$sounds"}
stage 5 fine_tune "$config" ${overrides:+"$overrides"} "$data"/{train,valid,test}
stage 6 gather
stage 7 tag
