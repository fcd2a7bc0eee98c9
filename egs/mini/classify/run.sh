#!/usr/bin/env bash
# A tagger of six spoken phrases and other speech, on the corpus beside this file: a minute or two on two cores.
# ./run.sh --start-from ../pretrain/exp/mini begins with the encoder that ../pretrain has trained.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=5
corpus=corpus
other=../denoise/corpus/speech
data=data
exp=exp/mini
start_from=
config=../../../recipes/classify/audio_mae.yaml
overrides=conf/small.yaml
seconds=2.5
measured=
max_steps=150
batch_size=16
epoch_steps=50
train_options=
seed=0
cmd=local

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
tests=valid train_sets=$data/train valid_set= sounds= # nothing is chosen: what is validated is the test
. ../../utils/classify.sh

prepare() { # a phrase is a folder; the seventh class is of readers who say something else
  for part in train valid; do
    audiomask data import folder "$corpus/$part" "$data/phrases_$part" --speaker file --label folder -f
    audiomask data import librispeech "$other/$part" "$data/other_$part" -f
    sed 's/ .*/ other/' "$data/other_$part/wav.scp" > "$data/other_$part/utt2label"
    audiomask data combine "$data/$part" "$data"/{phrases,other}_$part -f
  done
  audiomask data validate "$data"/{train,valid}
}

stage 1 prepare "$corpus" "$other"
stage 2 measure
stage 3 fine_tune "$config" ${overrides:+"$overrides"}
stage 4 gather
stage 5 tag
