# Sourced by the run.sh of a separation recipe: the stages that are the same for every corpus. Needs the variables exp,
# data and masks, those of the training, and tests: the data directories below $data, with a table for each stem, that
# are separated and scored.
. ../../utils/train.sh
. ../../utils/denoise.sh # its export_model

separate_tests() {
  for part in $tests; do
    $enhance_cmd audiomask separate "$data/$part" -m "$exp/model.onnx" -o "$exp/separated/$part" --format wav \
      --subtype FLOAT -f -q
  done
}
score_separated() { # csdr is among the scores where museval is installed
  for part in $tests; do
    echo "$part"
    audiomask score --ref "$data/$part" --est "$exp/separated/$part" --stems --json "$exp/scores_$part.json" -f
  done
}
score_ideal() { # what masks that know the stems reach, and the mixture as it is
  for part in $tests; do
    audiomask score --ref "$data/$part" --oracles "$masks" --json "$exp/ideal_$part.json" -f
  done
}
report() { # one table a score: the mixture, what was trained, and the ideal masks
  python3 ../../utils/separation_report.py "$exp" $tests | tee "$exp/RESULTS.md"
}
