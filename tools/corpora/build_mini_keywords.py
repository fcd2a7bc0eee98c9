"""Build egs/mini/classify/corpus: some spoken keywords that travel with the repository.

    python tools/corpora/build_mini_keywords.py --keywords WAKEWORD --out egs/mini/classify/corpus

WAKEWORD holds a folder of Opus clips for each phrase: the recordings of Picovoice's wake-word-benchmark
(Apache-2.0), as mono Opus at 16 kHz. Files are copied as they are, evenly spaced in the order of their names;
who speaks is not known, so training and validation may share speakers, but no recording.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
from itertools import combinations
from pathlib import Path

PHRASES = ("alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass")
COUNTS = {"train": 8, "valid": 4}  # clips of each phrase
SOURCE = "https://github.com/Picovoice/wake-word-benchmark"


def choose(folder: Path) -> dict[str, list[Path]]:
    """The clips of a phrase by part, all of them different."""
    files = sorted(folder.glob("*.opus"))
    wanted = sum(COUNTS.values())
    if len(files) < wanted:
        sys.exit(f"{folder}: {len(files)} clips, want {wanted}")
    chosen = [files[i * len(files) // wanted] for i in range(wanted)]
    for a, b in combinations(chosen, 2):
        if filecmp.cmp(a, b, shallow=False):
            sys.exit(f"{a}: the same recording as {b}; remove one of them")
    return {"valid": chosen[2::3], "train": [path for i, path in enumerate(chosen) if i % 3 != 2]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keywords", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = ["file\tlicence\tauthor\ttitle\tsource"]
    for phrase in PHRASES:
        for part, files in choose(args.keywords / phrase).items():
            for path in files:
                place = f"{part}/{phrase}/{path.name}"
                (args.out / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, args.out / place)
                title = f"wake-word-benchmark, {phrase.replace('_', ' ')}: {path.stem}"
                rows.append(f"{place}\tApache-2.0\tPicovoice Inc.\t{title}\t{SOURCE}")
    (args.out / "CREDITS.tsv").write_text("\n".join([rows[0], *sorted(rows[1:])]) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(rows) - 1} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
