# Sourced by a run.sh whose training reads one kind of data. Needs the variables exp, train_set, valid_set and those below.
train() {
  $train_cmd audiomask train "$config" --data.train "$train_set" --data.valid "$valid_set" --data.cache "$exp/cache" \
    --data.batch_size "$batch_size" --data.steps "$epoch_steps" --trainer.max_steps "$max_steps" \
    --seed_everything "$seed" --out "$exp" $fresh $train_options
}
