#!/usr/bin/env bash
# A denoiser on VoiceBank+DEMAND, trained on its pairs and tested as in the published tables; see RESULTS.md.
# ./run.sh downloads the corpus (5.6 GB for 28 speakers); ./run.sh --corpus DIR takes one that is unpacked already.

set -euo pipefail
cd "$(dirname "$0")"

stage=1
stop_stage=7
corpus=
speakers=28
valid_speakers=p226,p287
bad_files=stop
data=data
exp=exp/sieve
config=../../../recipes/denoise/sieve.yaml
max_steps=45000
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
. ../../utils/denoise.sh

get() { # resumed, checked and unpacked; nothing to do for a corpus that is there
  [ -n "$corpus" ] || python3 "$root/tools/corpora/get_corpus.py" conf/archives.tsv "$data/corpus" --only \
    {clean,noisy}_testset_wav.zip {clean,noisy}_trainset_"${speakers}"spk_wav.zip
}
prepare() { # two of the training speakers select the model; the test set does not
  audiomask data import voicebank "${corpus:-$data/corpus}" "$data" --bad-files "$bad_files" -f
  audiomask data subset "$data/trainset_${speakers}spk" "$data/train" --speakers "$valid_speakers" --exclude -f
  audiomask data subset "$data/trainset_${speakers}spk" "$data/valid" --speakers "$valid_speakers" -f
  audiomask data validate "$data"/{train,valid,testset}
}
convert_test() { # the files are of 48 kHz, the published figures of 16
  audiomask data convert "$data/testset" "$data/test" --rate 16000 -f
}
train() { # on the pairs of the corpus, the noises of each batch dealt out anew (conf/pairs.yaml)
  $train_cmd audiomask train "$config" --config conf/pairs.yaml --data.train "$data/train" --data.valid "$data/valid" \
    --data.cache "$exp/cache" --data.batch_size "$batch_size" --data.steps "$epoch_steps" \
    --trainer.max_steps "$max_steps" --seed_everything "$seed" --out "$exp" $fresh $train_options
}

stage 1 get conf/archives.tsv
stage 2 prepare "${corpus:-$data/corpus}"
stage 3 convert_test "$data/testset"
stage 4 train "$config" conf/pairs.yaml "$data/train" "$data/valid"
stage 5 export_model
stage 6 enhance_tests "$data/test"
stage 7 score_tests
