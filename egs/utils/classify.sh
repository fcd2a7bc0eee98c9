# Sourced by the run.sh of a tagging recipe: the stages that are the same for every corpus. Needs the variables exp, data,
# corpus, those of the training, and
#   tests       data directories below $data that are tested on; each has a tagger of its own in $exp/TEST
#   train_sets  what that is trained on: a path with %s for TEST, if they are not all trained on the same;
#               measured_set, if that is shards: a data directory for the constants
#   valid_set   what chooses the best weights; without one they are those of the last step, chosen by nothing
train_set_of() { printf "$train_sets" "$1"; }

get() { # resumed, checked and unpacked; nothing to do for a corpus that is there
  [ -n "$corpus" ] || python3 "$root/tools/corpora/get_corpus.py" conf/archives.tsv "$data/corpus"
}
measure() { # the constants of the front end, and the classes, of what is trained on and nothing else
  for part in $tests; do
    mkdir -p "$exp/$part"
    audiomask data stats "${measured_set:-$(train_set_of "$part")}" --seconds "$seconds" \
      ${measured:+--count "$measured"} --options > "$exp/$part/options"
  done
}
pretrain() { # an encoder, on sounds of other corpora, with the recipe's constants; nothing to do without --sounds
  [ -n "$sounds" ] || return 0
  $train_cmd audiomask train "$pretrain_config" --data.train "$sounds" --data.valid "$sounds" \
    --trainer.limit_val_batches 0 --data.cache "$exp/cache" --trainer.max_steps "$pretrain_steps" \
    --seed_everything "$seed" --out "$exp/pretrained" $fresh $pretrain_options
}
fine_tune() { # and the test, whose figures are of the weights that were kept
  local start=$start_from words choice
  if [ -n "$sounds" ]; then start=$exp/pretrained; fi
  for part in $tests; do
    mapfile -t words < "$exp/$part/options"
    choice=(--data.valid "$data/$part" --trainer.limit_val_batches 0)
    if [ -n "$valid_set" ]; then choice=(--data.valid "$valid_set"); fi
    $train_cmd audiomask train "$config" ${overrides:+--config "$overrides"} "${words[@]}" \
      --data.train "$(train_set_of "$part")" "${choice[@]}" --data.test "$data/$part" --data.cache "$exp/cache" \
      --data.batch_size "$batch_size" --data.steps "$epoch_steps" --trainer.max_steps "$max_steps" \
      ${start:+--model.start_from "$start"} --seed_everything "$seed" --out "$exp/$part" $fresh $train_options
  done
}
gather() { # accuracy and mean average precision of every test set, their mean and deviation
  python3 ../../utils/gather.py "$exp/scores_test.json" $(printf "$exp/%s/test.json " $tests)
}
tag() { # by the first tagger as one file that needs no torch and streams
  local part=${tests%% *}
  audiomask export "$exp/$part" -o "$exp/$part/tagger.onnx" --check -f
  $enhance_cmd audiomask tag "$data/$part" -m "$exp/$part/tagger.onnx" -o "$exp/$part/tags.csv" -f -q
}
