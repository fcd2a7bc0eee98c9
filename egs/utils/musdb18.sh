# Sourced by the run.sh of a recipe of MUSDB18, for its first stages. Needs the variables corpus, bad_files and data.
[ -n "$corpus" ] || { echo "$0: error: name the unpacked MUSDB18-HQ or MUSDB18 with --corpus" >&2; exit 2; }

# MUSDB18 keeps mix and stems as streams of one file; MUSDB18-HQ needs nothing
unpack() { python3 ../../utils/unpack_stems.py "$corpus" "$data/unpacked"; }
prepare() { # 14 songs of train select the model, as is usual; the songs of test are for nothing else
  if [ -d "$data/unpacked" ]; then corpus=$data/unpacked; fi
  audiomask data import musdb "$corpus" "$data" --bad-files "$bad_files" -f
  audiomask data validate "$data/train" "$data/valid" "$data/test"
}
