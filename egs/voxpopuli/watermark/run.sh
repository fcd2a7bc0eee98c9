#!/usr/bin/env bash
# AudioSeal on VoxPopuli, which its authors trained it on, and what it survives in sittings of its own; see RESULTS.md.
# ./run.sh --corpus DIR takes the root that VoxPopuli's own scripts have downloaded to; --parts says what of it.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=4
corpus=
parts="unlabelled_data"
split=train=0.99,valid=0.005,test=0.005
count=200
bad_files=skip
data=data
exp=exp/audioseal
config=../../../recipes/watermark/audioseal.yaml
attacks="speed:1.25 resample:32000 echo:0.5:0.5 white:0.001 white:0.01 pink:0.1 lowpass:5000 highpass:500 smooth:10 gain:-6 mp3:64 aac:64 opus:16 network:6"
clip_s=5
max_steps=600000
batch_size=16
epoch_steps=2000
train_options=
seed=0
cmd=local
tests=test

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
train_set=$data/split/train valid_set=$data/valid noise=
. ../../utils/watermark.sh

[ -n "$corpus" ] || { echo "$0: error: give --corpus DIR; RESULTS.md says how VoxPopuli is downloaded" >&2; exit 2; }

prepare() { # a sitting stays together, in whatever languages it is heard: they share what is not translated
  local lists=()
  for part in $parts; do
    audiomask data import folder "$corpus/$part" "$data/${part//\//_}" --bad-files "$bad_files" -f \
      --speaker '([0-9]{8}-[^_/]*?)(?:-[a-z]{2})?_'
    lists+=("$data/${part//\//_}")
  done
  audiomask data combine "$data/all" "${lists[@]}" -f
  audiomask data split "$data/all" "$data/split" --ratio "$split" --seed "$seed" -f
  for part in valid test; do
    audiomask data subset "$data/split/$part" "$data/$part" --count "$count" --seed "$seed" -f
  done
  audiomask data validate "$train_set" "$valid_set" "$data/test"
}

stage 1 prepare $(printf "$corpus/%s " $parts)
stage 2 train "$config" "$train_set" "$valid_set"
stage 3 export_watermark
stage 4 survive "$data/test" "$root/tools/attack_report.py"
