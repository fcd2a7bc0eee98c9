#!/usr/bin/env bash
# A single-channel denoiser on CHiME-3: WSJ0 speech under the corpus' own backgrounds; see RESULTS.md.
# ./run.sh --corpus CHiME3: the folder of LDC2017S24 that holds data/audio; the LDC licenses it, nothing is downloaded.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=6
corpus=CHiME3
references=
channel=5
bad_files=stop
split=train=0.8,valid=0.2
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
tests="et05_simu et05_real"

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
. ../../utils/denoise.sh

prepare() { # wav.scp: one channel; ch1.scp to ch6.scp: all; whole sessions of background are kept for the validation
  audiomask data import chime3 "$corpus" "$data" --channel "$channel" --bad-files "$bad_files" -f \
    ${references:+--references "$references"}
  audiomask data split "$data/noise" "$data/split_noise" --ratio "$split" --by recording --seed "$seed" -f
  audiomask data validate "$data"/{tr05_org,dt05_bth} "$data"/split_noise/{train,valid} $(printf "$data/%s " $tests)
}
mix() { # booth recordings of the development set's speakers under those sessions, at the levels of a noisy place
  audiomask data mix "$data/valid" --speech "$data/dt05_bth" --noise "$data/split_noise/valid" \
    --count "$mixtures" --snr 0 15 --seed "$seed" -f
}
train() {
  $train_cmd audiomask train "$config" --data.train "$data/tr05_org" --data.noise "$data/split_noise/train" \
    --data.valid "$data/valid" --data.cache "$exp/cache" --data.batch_size "$batch_size" \
    --data.steps "$epoch_steps" --trainer.max_steps "$max_steps" --seed_everything "$seed" --out "$exp" \
    $fresh $train_options
}

stage 1 prepare "$corpus"
stage 2 mix "$data/dt05_bth" "$data/split_noise/valid"
stage 3 train "$config" "$data/tr05_org" "$data/split_noise/train" "$data/valid"
stage 4 export_model
stage 5 enhance_tests $(printf "$data/%s " $tests)
stage 6 score_tests
