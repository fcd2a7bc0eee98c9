# Sourced by the run.sh of a concealment recipe: the stages that are the same for every corpus. Needs the variables exp,
# data, corpus and noise, those of the training, its train_set and valid_set, and tests: the data directories below $data, with
# utt2trace, that are concealed and scored. losses_of_training, if set, is a YAML list of loss models.
. ../../utils/denoise.sh
metrics=pesq_wb,estoi,plcmos metrics_alone=plcmos,dnsmos unprocessed=$exp/lossy processed=$exp/concealed

get() { # resumed, checked and unpacked; nothing to do for a corpus that is there
  [ -n "$corpus" ] || python3 "$root/tools/corpora/get_corpus.py" conf/archives.tsv "$data/corpus"
}
train() { # without noise, unless --noise names some
  local noises=(--data.noise "$train_set" --model.simulation.sent.clean 1.0)
  if [ -n "$noise" ]; then noises=(--data.noise "$noise"); fi
  $train_cmd audiomask train "$config" --data.train "$train_set" --data.valid "$valid_set" "${noises[@]}" \
    ${losses_of_training:+--model.simulation.losses "$losses_of_training"} --data.cache "$exp/cache" \
    --data.batch_size "$batch_size" --data.steps "$epoch_steps" --trainer.max_steps "$max_steps" \
    --seed_everything "$seed" --out "$exp" $fresh $train_options
}
conceal_tests() { # and silence in the place of what was lost, which is scored beside it
  for part in $tests; do
    $enhance_cmd audiomask conceal "$data/$part" --loss "$data/$part/utt2trace" -m "$exp/model.onnx" \
      -o "$processed/$part" --format wav -f -q
    audiomask conceal "$data/$part" --loss "$data/$part/utt2trace" -m zero -o "$unprocessed/$part" \
      --format wav -f -q
  done
}
