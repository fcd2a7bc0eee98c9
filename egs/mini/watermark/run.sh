#!/usr/bin/env bash
# AudioSeal in small from recordings to two files that mark and find, on the corpus of ../denoise: a minute on a core.
# Then Hallmark, which needs no training: marked, attacked and found.
# ./run.sh --small "" --max-steps 500 trains it in full size; what was done before and still holds is skipped.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=7
corpus=../denoise/corpus
data=data
exp=exp/mini
config=../../../recipes/watermark/audioseal.yaml
small="--model.model.filters 4 --model.model.latent 16 --data.segment 8000"
attacks="gain:-6 mp3:64"
clip_s=2
own_attack=speed:1.05+opus:16+noise:30
max_steps=4
epoch_steps=4
batch_size=2
train_options=
seed=0
cmd=local
tests=some_valid

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_options="$small $train_options"
train_set=$data/speech_train valid_set=$data/some_valid noise=
. ../../utils/watermark.sh
. ../../utils/mini.sh

choose() { # a few recordings, since the point is that every step runs
  audiomask data subset "$data/speech_valid" "$valid_set" --count 2 --seed "$seed" -f
}
blocks() { # the same samples in blocks of any size as at once
  python3 local/check_blocks.py "$exp/watermark" "$corpus/demo/mixture_clean.flac"
}
hallmark() { # our own mark, and what is found of it after the attack
  local own=$exp/hallmark
  mkdir -p "$own"
  audiomask mark --new-key "$own/key" -f
  audiomask mark "$corpus/demo/mixture_clean.flac" -o "$own/marked.wav" --message beef --key "$own/key" -f
  audiomask attack "$own/marked.wav" --kind "$own_attack" -o "$own/attacked.wav" --seed "$seed" -f
  audiomask detect "$own/attacked.wav" "$corpus/demo/mixture_clean.flac" --key "$own/key" --json > "$own/found.jsonl"
  cat "$own/found.jsonl"
  grep -q '"message": "beef"' "$own/found.jsonl"
}

stage 1 prepare "$corpus"
stage 2 choose
stage 3 train "$config" "$train_set" "$valid_set"
stage 4 export_watermark
stage 5 survive "$data/some_valid" "$root/tools/attack_report.py"
stage 6 blocks local/check_blocks.py
stage 7 hallmark "$corpus/demo/mixture_clean.flac"
