# Sourced by the run.sh of a denoising recipe: the stages that are the same for every corpus. Needs the variables exp and
# data, and tests: the data directories below $data that are enhanced and scored. Others may have set metrics and
# metrics_alone (without references), and unprocessed and processed, the folders of what is scored.
export_model() { # one file that needs no torch, checked against the network it came from
  audiomask export "$exp" -o "$exp/model.onnx" --check -f
}
enhance_tests() {
  for part in $tests; do
    $enhance_cmd audiomask enhance "$data/$part" -m "$exp/model.onnx" -o "$exp/enhanced/$part" -f -q
  done
}
score_tests() { # beside the unprocessed recordings; without clean.scp only by the metrics that need no reference
  for part in $tests; do
    echo "$part"
    local references=()
    if [ -f "$data/$part/clean.scp" ]; then
      references=(--ref "$data/$part/clean.scp" ${metrics:+--metrics "$metrics"})
    else
      references=(${metrics_alone:+--metrics "$metrics_alone"})
      echo "$part has no clean.scp: scores without references only"
    fi
    audiomask score "${references[@]}" --noisy "${unprocessed:-$data}/$part" --est "${processed:-$exp/enhanced}/$part" \
      --json "$exp/scores_$part.json" -f
  done
}
