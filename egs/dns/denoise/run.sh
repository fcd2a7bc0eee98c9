#!/usr/bin/env bash
# A denoiser on the DNS challenge's speech, noise and rooms, tested on its synthetic pairs; see RESULTS.md.
# ./run.sh downloads the corpus (allow for 200 GB); ./run.sh --corpus DIR takes one that is unpacked already.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=7
corpus=
bad_files=stop
split=train=0.995,valid=0.005
rooms=3000
mixtures=300
data=data
exp=exp/sieve
config=../../../recipes/denoise/sieve.yaml
max_steps=45000
batch_size=16
epoch_steps=500
train_options=
seed=0
cmd=local
tests="test_no_reverb test_with_reverb"

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
. ../../utils/denoise.sh

get() { # resumed, checked and unpacked; nothing to do for a corpus that is there
  [ -n "$corpus" ] || python3 "$root/tools/corpora/get_corpus.py" conf/archives.tsv "$data/corpus"
}
prepare() { # speakers and noises that the training never meets are kept for the validation
  audiomask data import dns "${corpus:-$data/corpus}" "$data" --bad-files "$bad_files" -f
  for kind in clean noise; do
    audiomask data split "$data/$kind" "$data/split_$kind" --ratio "$split" --seed "$seed" -f
  done
  audiomask data subset "$data/rooms" "$data/some_rooms" --count "$rooms" --seed "$seed" -f
  audiomask data validate "$data"/split_{clean,noise}/{train,valid} "$data/some_rooms" $(printf "$data/%s " $tests)
}
mix() { # the corpus has no validation set: fixed mixtures, drawn as the test set was (0 to 20 dB)
  audiomask data mix "$data/valid" --speech "$data/split_clean/valid" --noise "$data/split_noise/valid" \
    --count "$mixtures" --snr 0 20 --seed "$seed" -f
}
train() {
  $train_cmd audiomask train "$config" --data.train "$data/split_clean/train" --data.noise "$data/split_noise/train" \
    --data.valid "$data/valid" --model.simulation.rooms "$data/some_rooms" --data.cache "$exp/cache" \
    --data.batch_size "$batch_size" --data.steps "$epoch_steps" --trainer.max_steps "$max_steps" \
    --seed_everything "$seed" --out "$exp" $fresh $train_options
}

stage 1 get conf/archives.tsv
stage 2 prepare "${corpus:-$data/corpus}"
stage 3 mix "$data"/split_{clean,noise}/valid
stage 4 train "$config" "$data"/split_{clean,noise}/train "$data/valid" "$data/some_rooms"
stage 5 export_model
stage 6 enhance_tests $(printf "$data/%s " $tests)
stage 7 score_tests
