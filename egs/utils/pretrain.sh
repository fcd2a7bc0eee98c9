# Sourced by the run.sh of a pretraining recipe: the stages that are the same for every corpus. Needs the variables exp, data,
# those of the training, measured_set (a data directory), train_set (directory or shards) and valid_set.
measure() { # the mean and deviation of the log-mel, by which the front end normalises
  mkdir -p "$exp"
  audiomask data stats "$measured_set" --seconds "$seconds" ${measured:+--count "$measured"} --options | sed -n 1,4p \
    > "$exp/options"
}
pretrain() { # on patches of which most are hidden; no labels
  local words
  mapfile -t words < "$exp/options"
  $train_cmd audiomask train "$config" ${overrides:+--config "$overrides"} "${words[@]}" \
    --data.train "$train_set" --data.valid "$valid_set" --data.cache "$exp/cache" \
    --data.batch_size "$batch_size" --data.steps "$epoch_steps" --trainer.max_steps "$max_steps" \
    --seed_everything "$seed" --out "$exp" $fresh $train_options
}
