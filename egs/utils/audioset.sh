# Sourced by the recipes of AudioSet. Needs corpus (the folder of the tables), clips, bad_files, data.
prepare() { # a directory for each table; clips that are no longer to be had are counted and left out
  audiomask data import audioset "$corpus" "$data" ${clips:+--clips "$clips"} --bad-files "$bad_files" -f
  audiomask data validate --no-audio "$data/eval" $(printf "$data/%s " $train_parts)
}
shard() { # all there is to train on, shuffled, with its labels: too large for one file in memory
  if [ "$train_parts" = "${train_parts% *}" ]; then
    audiomask data shard "$data/$train_parts" -o "$train_set" --size "$shard_size" -f
  else
    audiomask data combine "$data/train" $(printf "$data/%s " $train_parts) -f
    audiomask data shard "$data/train" -o "$train_set" --size "$shard_size" -f
  fi
}
