#!/usr/bin/env bash
# A denoiser from recordings to a live stream, on the corpus beside this file: a few minutes on two cores.
# ./run.sh --stage 3 --max-steps 500 starts at the training; what was done before and still holds is skipped.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=6
corpus=corpus
data=data
exp=exp/mini
config=../../../recipes/denoise/sieve.yaml
max_steps=80
batch_size=4
mixtures=24
seed=0
cmd=local

. ../../utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../../utils/stage.sh
. ../../utils/denoise.sh

prepare() { # data directories: readers are speakers, kinds of noise take their place for noise
  for part in train valid; do
    audiomask data import librispeech "$corpus/speech/$part" "$data/speech_$part" -f
    audiomask data import folder "$corpus/noise/$part" "$data/noise_$part" -f
  done
  audiomask data validate "$data"/{speech,noise}_{train,valid}
}
mix() { # fixed mixtures with references, of readers and noises that the training never meets
  audiomask data mix "$data/mixtures" --speech "$data/speech_valid" --noise "$data/noise_valid" \
    --count "$mixtures" --seed "$seed" -f
}
train() { # far too short for a good model: the point is that every step runs
  $train_cmd audiomask train "$config" --data.train "$data/speech_train" --data.noise "$data/noise_train" \
    --data.valid "$data/mixtures" --data.cache "$exp/cache" --data.batch_size "$batch_size" \
    --data.steps "$max_steps" --trainer.max_steps "$max_steps" --model.warmup 10 \
    --seed_everything "$seed" --out "$exp" --fresh
}
enhance() {
  $enhance_cmd audiomask enhance "$data/mixtures" -m "$exp/model.onnx" -o "$exp/enhanced" -f -q
  audiomask score --ref "$data/mixtures/clean.scp" --noisy "$data/mixtures" --est "$exp/enhanced" \
    --json "$exp/scores.json" -f
}
stream() { # the same samples through a pipe, as from a microphone
  local/check_stream.sh "$exp/model.onnx" "$corpus/demo/mixture_noisy.flac"
}

stage 1 prepare "$corpus"
stage 2 mix
stage 3 train "$config"
stage 4 export_model
stage 5 enhance
stage 6 stream
