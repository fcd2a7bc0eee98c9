# Sourced by the run.sh of a watermark recipe: the stages that are the same for every corpus. Needs the variables exp, data,
# those of the training, its train_set and valid_set, attacks, tests: the data directories below $data of which clips of
# clip_s seconds are marked, attacked and listened to.
. ../../utils/codec.sh # its training, of what is sent

export_watermark() { # marker and detector, two files that need no torch, checked against the network they came from
  audiomask export "$exp" -o "$exp/watermark.onnx" --check -f
}
survive() { # what is found of a message after attacks, and what in recordings that are not marked
  for part in $tests; do
    echo "$part"
    $enhance_cmd python3 "$root/tools/attack_report.py" "$data/$part" --marker "$exp/watermark" --attacks $attacks \
      --seconds "$clip_s" --json "$exp/survival_$part.json"
  done
}
