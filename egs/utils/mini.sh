# Sourced by the run.sh of a small recipe of speech: prepare, from the corpus that ships. Needs the variables corpus and data.
prepare() { # data directories: readers are speakers, kinds of noise take their place for noise
  audiomask data import folder "$corpus/noise/train" "$data/noise_train" -f
  for part in train valid; do
    audiomask data import librispeech "$corpus/speech/$part" "$data/speech_$part" -f
  done
  audiomask data validate "$data"/{speech_train,speech_valid,noise_train}
}
