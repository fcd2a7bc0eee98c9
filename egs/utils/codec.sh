# Sourced by the run.sh of a codec recipe: the stages that are the same for every corpus. Needs the variables exp, data,
# those of the training, its train_set and valid_set, rates (kbit/s), and tests: the data directories below $data that are
# coded, decoded and scored.
. ../../utils/denoise.sh

train() { # without noise, unless --noise names some
  local noises=(--data.noise "$train_set" --model.simulation.sent.clean 1.0)
  if [ -n "$noise" ]; then noises=(--data.noise "$noise"); fi
  $train_cmd audiomask train "$config" --data.train "$train_set" --data.valid "$valid_set" "${noises[@]}" \
    --data.cache "$exp/cache" --data.batch_size "$batch_size" --data.steps "$epoch_steps" \
    --trainer.max_steps "$max_steps" --seed_everything "$seed" --out "$exp" $fresh $train_options
}
export_codec() { # encoder and decoder, two files that know each other and need no torch
  audiomask export "$exp" -o "$exp/codec.onnx" --check -f
}
code_tests() { # through files of codes, at every rate
  for part in $tests; do
    for kbps in $rates; do
      $enhance_cmd audiomask encode "$data/$part" -m "$exp/codec" --kbps "$kbps" -o "$exp/codes/$part/$kbps" -f -q
      $enhance_cmd audiomask codec "$data/$part" -m "$exp/codec" --kbps "$kbps" -o "$exp/decoded/$part/$kbps" --no-scores -f -q
    done
  done
}
score_codec() {
  for part in $tests; do
    for kbps in $rates; do
      echo "$part at $kbps kbit/s, $(find "$exp/codes/$part/$kbps" -name '*.amk' -printf '%s\n' | awk '{ n += $1 } END { print n }') bytes"
      audiomask score --ref "$data/$part" --est "$exp/decoded/$part/$kbps" --metrics "${metrics:-pesq_wb,estoi}" \
        --json "$exp/scores_${part}_$kbps.json" -f
    done
  done
}
