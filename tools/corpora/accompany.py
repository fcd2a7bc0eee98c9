"""Write MIDI songs of drums, bass, chords and a melody in hundreds of styles, to render as stems.

    python tools/corpora/accompany.py --songs 300 -o data/accompanied
    python tools/corpora/render_stems.py data/accompanied --fonts FluidR3_GM.sf2 --vary -o data/rendered

MIDI music with drums and a bass under a free licence is rare. This draws a key, a tempo, chords and two
grooves of one style for each song, has MMA (Musical MIDI Accompaniment, Debian's mma, GPL-2+) play them, and
adds a melody drawn from the scale. SONG.mid is the same for a seed, whatever --songs; a groove that MMA
refuses is replaced by the next drawn. The last of every --held songs goes to OUT/valid, with grooves of
styles that OUT/train never uses, and the others to OUT/train.

Needs mido from PyPI, and MMA: `apt-get install mma`, or --mma and --library for one that lies elsewhere.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from render_stems import DRUM_CHANNEL, Failure, read_song

from audiomask.audio import AudioError, make_folder

KEYS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
MAJOR = (0, 2, 4, 5, 7, 9, 11)
CHORDS = {0: "", 2: "m", 4: "m", 5: "", 7: "7", 9: "m"}  # by their distance from the key
NEXT = {0: (5, 7, 9, 2, 4), 2: (7, 5), 4: (9, 5), 5: (7, 0, 2), 7: (0, 0, 9, 5), 9: (2, 5, 4)}
BARS, PARTS = 8, 4
LEADS = [*range(0, 15), *range(16, 32), *range(40, 47), *range(52, 88), *range(104, 109)]  # General MIDI
SILENT = 0.35  # probability that a note of the melody rests
TRIES = 20


def grooves(library: Path) -> dict[str, list[str]]:
    """Return the grooves of each style, which is a file of MMA's library."""
    found = {}
    for path in sorted(library.rglob("*.mma")):
        text = path.read_text(encoding="utf-8", errors="replace")
        names = re.findall(r"(?im)^\s*DefGroove\s+(\S+)", text)
        names = [name for name in names if not re.search(r"intro|end|break", name, re.IGNORECASE)]
        if names:
            found[str(path.relative_to(library))] = names
    if not found:
        raise Failure(f"{library}: no grooves of MMA below it; install Debian's mma, or name --library")
    return found


def held(style: str, every: int) -> bool:
    return int(hashlib.md5(style.encode()).hexdigest(), 16) % every == 0


def progression(rng: np.random.Generator) -> list[int]:
    degrees = [0]
    while len(degrees) < BARS:
        degrees.append(int(rng.choice(NEXT[degrees[-1]])))
    return degrees


def script(key: int, tempo: int, parts: list[tuple[str, list[int]]]) -> str:
    lines, bar = [f"Tempo {tempo}"], 0
    for groove, degrees in parts:
        lines.append(f"Groove {groove}")
        for degree in degrees:
            bar += 1
            lines.append(f"{bar} {KEYS[(key + degree) % 12]}{CHORDS[degree]}")
    return "\n".join(lines) + "\n"


def melody(song: Path, key: int, rng: np.random.Generator) -> None:
    """Add a track with a melody that walks up and down the scale, if a channel is free for it."""
    import mido

    midi = mido.MidiFile(song)
    used = {m.channel for track in midi.tracks for m in track if hasattr(m, "channel")} | {DRUM_CHANNEL}
    free = sorted(set(range(16)) - used)
    if not free:
        return
    beats = int(max(sum(m.time for m in track) for track in midi.tracks) / midi.ticks_per_beat)
    program, step = int(rng.choice(LEADS)), int(rng.integers(7, 18))
    track = mido.MidiTrack([mido.Message("program_change", channel=free[0], program=program)])
    rest, beat = 0, 0.0
    while beat < beats:
        length = float(rng.choice([0.25, 0.5, 0.5, 1, 1, 2]))
        ticks = int(length * midi.ticks_per_beat)
        beat += length
        if rng.random() < SILENT:
            rest += ticks
            continue
        step = int(np.clip(step + rng.integers(-3, 4), 0, 21))
        note = 48 + key % 12 + 12 * (step // 7) + MAJOR[step % 7]
        struck = {"note": note, "channel": free[0]}
        track.append(mido.Message("note_on", velocity=int(rng.integers(60, 120)), time=rest, **struck))
        track.append(mido.Message("note_off", time=int(0.9 * ticks), **struck))
        rest = ticks - int(0.9 * ticks)
    midi.tracks.append(track)
    midi.save(song)


def played(song: Path) -> set[str]:
    """Return the stems that have notes."""
    try:
        return {event.stem for event in read_song(song)}
    except Failure:
        return set()


def write(path: Path, styles: dict[str, list[str]], mma: str, rng: np.random.Generator) -> str:
    """Write a song and return its style; Failure if MMA refuses all that is drawn."""
    if not styles:
        raise Failure(f"{path}: no style is left for it; change --held, or name a larger --library")
    said = ""
    for _ in range(TRIES):
        style = str(rng.choice(sorted(styles)))
        pair = rng.choice(styles[style], 2)
        key, tempo = int(rng.integers(12)), int(rng.integers(70, 170))
        parts = [progression(rng), progression(rng)]
        order = [(str(pair[n % 2]), parts[n % 2]) for n in range(PARTS)]
        with tempfile.TemporaryDirectory() as folder:
            source, song = Path(folder, "song.mma"), Path(folder, "song.mid")
            source.write_text(script(key, tempo, order), encoding="utf-8")
            command = [mma, str(source), "-f", str(song)]
            ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            said = (ran.stdout + ran.stderr).strip()[-200:]
            if ran.returncode == 0 and song.exists() and {"drums", "bass"} <= played(song):
                melody(song, key, rng)
                part = path.with_suffix(".part")
                shutil.copyfile(song, part)
                part.replace(path)
                return style
    raise Failure(f"{path}: MMA made none of {TRIES} songs drawn; it said last: {said or 'nothing'}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--songs", type=int, default=100, metavar="N")
    parser.add_argument("--held", type=int, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mma", default="mma", metavar="PROGRAM")
    parser.add_argument("--library", type=Path, default=Path("/usr/share/mma/lib"))
    args = parser.parse_args()
    try:
        if shutil.which(args.mma) is None:
            raise Failure(f"{args.mma}: no such program; install Debian's mma, or name --mma")
        styles = grooves(args.library)
        kept = {style: names for style, names in styles.items() if not held(style, args.held)}
        rest = {style: names for style, names in styles.items() if held(style, args.held)}
        if any(args.out.glob("*/*.mid")):
            raise Failure(f"{args.out}: holds songs; choose another OUT")
        for number in range(args.songs):
            what = "valid" if number % args.held == args.held - 1 else "train"
            make_folder(args.out / what)
            path = args.out / what / f"song{number:04}.mid"
            rng = np.random.default_rng([args.seed, number])
            print(f"{path}: {write(path, rest if what == 'valid' else kept, args.mma, rng)}", flush=True)
    except (Failure, AudioError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
