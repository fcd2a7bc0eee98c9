# Sourced by the run.sh of ESC-10 and ESC-50, whose stages these are: five folds, each tested by a tagger that was trained on
# the other four. Needs what classify.sh needs, layout (that of `audiomask data import`) and folds.
tests=$(printf 'fold%s ' $folds) train_sets=$data/train_%s valid_set=
. ../../utils/classify.sh

prepare_folds() { # and for each fold a directory of all others
  audiomask data import "$layout" "${corpus:-$data/corpus}" "$data" --bad-files "$bad_files" -f
  for part in $tests; do
    audiomask data combine "$data/train_$part" $(ls -d "$data"/fold[1-5] | grep -v "/$part\$") -f
    audiomask data validate "$data/train_$part" "$data/$part"
  done
}
apart() { # no clip of ESC may be among the sounds that the encoder learned from
  [ -n "$sounds" ] || return 0
  if [ ! -f "$sounds/wav.scp" ]; then
    echo "$0: $sounds holds shards: whether there are clips of ESC among them is not looked at" >&2
  elif grep -qE '(^|[/ ])[1-5]-[0-9]+-[A-Z](-[0-9]+)?(\.[a-z]+)?( |$)' "$sounds/wav.scp"; then
    echo "$0: error: $sounds/wav.scp names clips of ESC; pretrain on other sounds" >&2
    exit 1
  else # nor under another name, or as a part of a longer recording
    audiomask data combine "$data/all" "$data"/fold[1-5] -f
    if ! python3 "$root/tools/corpora/find_overlap.py" --clips "$data/all" --corpus "$sounds"; then
      echo "$0: error: the recordings above hold clips of ESC; take them out of $sounds/wav.scp" >&2
      exit 1
    fi
  fi
}

stage 1 get conf/archives.tsv
stage 2 prepare_folds "${corpus:-$data/corpus}"
stage 3 measure
stage 4 apart ${sounds:+"$sounds"}
stage 5 pretrain "$pretrain_config" ${sounds:+"$sounds"}
stage 6 fine_tune "$config" ${overrides:+"$overrides"}
stage 7 gather
stage 8 tag
