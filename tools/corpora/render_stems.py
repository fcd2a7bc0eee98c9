"""Render MIDI songs as stems, drums, bass and other, to train and measure separators on.

    python tools/corpora/render_stems.py midi/*.mid --fonts FluidR3_GM.sf2 TimGM6mb.sf2 -o data/rendered
    python tools/corpora/render_stems.py midi/*.mid --fonts A.sf2 B.sf2 --drum-fonts KIT.sf2 \
        --versions 4 --vary -o data/varied

OUT is a data directory with drums.scp, bass.scp and other.scp beside wav.scp, the mixtures, like those of
`audiomask data import musdb`. The files are FLAC of 16 bits, and a mixture is exactly the sum of its stems:
one gain turns the song to a peak of .9 before all are rounded. utt2score names the notes of each song, lines
of stem, onset, offset and MIDI number (`audiomask.data.crops.scores`).

A note belongs to a stem by the program of General MIDI that its channel plays: drums are channel 10 and the
programs 115 to 119 (from woodblock to reverse cymbal, counted from 0), bass are 32 to 39, all else is other.
Each stem of a song is played with a sound font drawn by --seed. --versions makes several of each song. With
--vary, tempo and pitch are drawn as well, and instruments and kits are exchanged for others of their family.
A song that lacks a stem is an error, unless --allow-missing, which writes silence for it. A bad song does not
stop the others; the exit code is then 1.

Needs mido and tinysoundfont from PyPI: `pip install mido` and `pip install --no-deps tinysoundfont` (it names
a library for loudspeakers, which is not needed here).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiomask import audio
from audiomask.audio import AudioError, make_folder
from audiomask.data.kaldi.collector import Collector, as_key
from audiomask.data.kaldi.directory import DataError

if TYPE_CHECKING:
    import mido

STEMS = ("drums", "bass", "other")
DRUM_CHANNEL = 9  # that musicians call 10
DRUM_BANK = 128  # where sound fonts keep their kits
DRUM_PROGRAMS = range(115, 120)
BASS_PROGRAMS = range(32, 40)
FAMILY = 8  # programs of a family of General MIDI
BANK_SELECT = (0, 32)  # banks are the font's affair
SLOWER = (0.9, 1.1)
SEMITONES = (-3, 3)
VOLUME = 100  # of a channel until the song sets it, by General MIDI; the library begins at 127
VOICES = 512  # at once; beyond, the library cuts the oldest off
TAIL_S = 3.0  # after the last event, of which the last FADE_S fade out
FADE_S = 0.5
PEAK = 0.9
FULL = 2**15  # of 16 bits


class Failure(Exception):
    """What is wrong with a song or a sound font, and the remedy."""


@dataclass(frozen=True)
class Event:
    """A message at `time` seconds; the beginning of a note has its stem and its program too."""

    time: float
    message: mido.Message
    stem: str = ""
    program: int = 0
    pick: int = 0  # 0: the program itself, else another of its family


def stem_of(channel: int, program: int) -> str:
    """Return the stem of the notes of a channel that plays a program."""
    if channel == DRUM_CHANNEL or program in DRUM_PROGRAMS:
        return "drums"
    return "bass" if program in BASS_PROGRAMS else "other"


def read_song(path: Path) -> list[Event]:
    """Return the events of a song; Failure if it is no MIDI file, or has no notes."""
    import mido

    programs = [0] * 16
    events, now = [], 0.0
    try:
        for message in mido.MidiFile(path, clip=True):
            now += message.time
            if message.is_meta or message.type == "sysex":
                continue
            if message.type == "program_change":
                programs[message.channel] = message.program
            elif message.type == "note_on" and message.velocity:
                program = programs[message.channel]
                events.append(Event(now, message, stem_of(message.channel, program), program))
            else:
                events.append(Event(now, message))
    except (OSError, EOFError, ValueError, TypeError, LookupError) as error:
        raise Failure(f"{path}: not a MIDI file that can be read ({error or 'its end is missing'})") from None
    if not any(event.stem for event in events):
        raise Failure(f"{path}: has no notes; leave it out")
    return events


def varied(events: list[Event], rng: np.random.Generator) -> list[Event]:
    """Return a song at another tempo and pitch, with other instruments of the same families."""
    slower, shift = rng.uniform(*SLOWER), int(rng.integers(SEMITONES[0], SEMITONES[1] + 1))
    picks = rng.integers(128, size=(16, 128))
    out = []
    for event in events:
        message = event.message
        if message.type in ("note_on", "note_off") and message.channel != DRUM_CHANNEL:
            message = message.copy(note=min(127, max(0, message.note + shift)))
        pick = int(picks[message.channel, event.program]) if event.stem else 0
        out.append(replace(event, time=event.time * slower, message=message, pick=pick))
    return out


def stretch(events: list[Event], seconds: float, rng: np.random.Generator) -> list[Event]:
    """Return some `seconds` of a song that begin with a note, as if it had not sounded before."""
    begins = [event.time for event in events if event.stem]
    begin = min(begins[int(rng.integers(len(begins)))], max(begins[0], events[-1].time - seconds))
    return [
        replace(event, time=max(0.0, event.time - begin))
        for event in events
        if event.time < begin + seconds and (event.time >= begin or not event.stem)
    ]


def notes_of(events: list[Event]) -> list[tuple[str, float, float, int]]:
    """Return stem, onset, offset and number of each note; those that never end do so with the song."""
    held: dict[tuple[int, int], tuple[str, float]] = {}
    found = []
    for event in events:
        m = event.message
        if m.type not in ("note_on", "note_off"):
            continue
        key = m.channel, m.note
        if key in held:  # a note that is struck again has ended
            stem, onset = held.pop(key)
            found.append((stem, onset, event.time, m.note))
        if event.stem:
            held[key] = event.stem, event.time
    found += [(stem, onset, events[-1].time, note) for (_, note), (stem, onset) in held.items()]
    return sorted(found, key=lambda note: note[1:])


class Font:
    """A sound font, loaded once, that plays one stem after the other."""

    def __init__(self, path: Path, rate: int):
        import tinysoundfont

        self.path, self.rate = path, rate
        self.synth = tinysoundfont.Synth(samplerate=rate)
        try:
            self.id = self.synth.sfload(str(path), max_voices=VOICES)
        except Exception as error:  # the library raises what it likes
            raise Failure(f"{path}: not a sound font that can be read ({error}); want .sf2 or .sf3") from None
        self.presets = {
            bank: [p for p in range(128) if self.synth.sfpreset_name(self.id, bank, p) is not None]
            for bank in (0, DRUM_BANK)
        }

    def choices(self, event: Event) -> tuple[int, list[int]]:
        """Return the bank and the presets of a note's family, of which there may be none."""
        if event.message.channel == DRUM_CHANNEL:
            bank = DRUM_BANK if self.presets[DRUM_BANK] else 0  # where fonts of drums alone have their kit
            return bank, self.presets[bank]
        first = event.program // FAMILY * FAMILY
        family = [p for p in self.presets[0] if first <= p < first + FAMILY]
        return 0, [p for p in family if stem_of(0, p) == event.stem]

    def play(self, events: list[Event], stem: str) -> np.ndarray:
        """Return a stem `[T, 2]` of a song, with its tail."""
        self.synth.soundfonts[self.id].reset()
        for channel in range(16):
            self.synth.control_change(channel, 7, VOLUME)
        times = [0, *(round(event.time * self.rate) for event in events)]
        out = np.zeros((times[-1] + round(TAIL_S * self.rate), 2), np.float32)
        for event, (begin, end) in zip(events, pairwise(times), strict=True):
            if end > begin:
                self.synth.generate_simple(end - begin, memoryview(out[begin:end]).cast("B"))
            self._send(event, stem)
        self.synth.generate_simple(len(out) - times[-1], memoryview(out[times[-1] :]).cast("B"))
        fade = round(FADE_S * self.rate)
        out[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)[:, None]
        return out

    def _send(self, event: Event, stem: str) -> None:
        """Do what an event says, unless it begins a note of another stem."""
        m = event.message
        if event.stem == stem:
            bank, presets = self.choices(event)
            written = presets.index(event.program) if event.program in presets else 0
            preset = presets[(written + event.pick) % len(presets)]
            self.synth.program_select(m.channel, self.id, bank, preset, bank == DRUM_BANK)
            self.synth.noteon(m.channel, m.note, m.velocity)
        elif m.type in ("note_on", "note_off") and not event.stem:
            self.synth.noteoff(m.channel, m.note)
        elif m.type == "control_change" and m.control not in BANK_SELECT:
            self.synth.control_change(m.channel, m.control, m.value)
        elif m.type == "pitchwheel":
            self.synth.pitchbend(m.channel, m.pitch + 8192)


def rounded(stems: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the stems `[T, 2]` and their exact sum, mixture, in steps of 16 bits, at a peak of .9."""
    peak = max(float(np.abs(x).max()) for x in [*stems.values(), sum(stems.values())])
    if peak == 0:
        raise Failure("no sound; the fonts have no sample for its notes")
    steps = {name: np.rint(x * (PEAK / peak * FULL)) for name, x in stems.items()}
    return {"mixture": np.sum(list(steps.values()), axis=0)} | steps


def font_for(notes: list[Event], fonts: list[Font], rng: np.random.Generator) -> Font:
    """Return one of the fonts that have an instrument for all notes; Failure if none has."""
    kinds = {(event.message.channel == DRUM_CHANNEL, event.program): event for event in notes}
    lacking = [[event.program for event in kinds.values() if not font.choices(event)[1]] for font in fonts]
    able = [font for font, programs in zip(fonts, lacking, strict=True) if not programs]
    if not able:
        raise Failure(
            f"{fonts[0].path}: has no instrument like program {lacking[0][0]}, nor has another font; name "
            "fonts of General MIDI with --fonts, and those of drums alone with --drum-fonts"
        )
    return able[int(rng.integers(len(able)))]


def render(
    song: list[Event], fonts: dict[str, list[Font]], rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the signals `[T, 2]` of a version of a song, and by which font each stem was played."""
    drawn = {
        stem: font_for([event for event in song if event.stem == stem], fonts[stem], rng) for stem in STEMS
    }
    signals = rounded({stem: font.play(song, stem) for stem, font in drawn.items()})
    return signals, {stem: font.path.stem for stem, font in drawn.items()}


def song_files(paths: list[Path]) -> list[Path]:
    """Return the files, and the MIDI files below the folders."""
    found = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in (".mid", ".midi"))
        if path.is_dir() and not inside:
            raise Failure(f"{path}: no MIDI files (.mid, .midi) below it")
        found += inside if path.is_dir() else [path]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("midi", type=Path, nargs="+", metavar="MIDI", help="files or folders")
    parser.add_argument("--fonts", type=Path, nargs="+", required=True, metavar="FONT")
    parser.add_argument(
        "--drum-fonts", type=Path, nargs="+", default=[], metavar="FONT", help="more, for drums alone"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--versions", type=int, default=1, metavar="N", help="of each song")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="of each, from a note drawn (default: all)"
    )
    parser.add_argument("--vary", action="store_true", help="draw instruments, kits, tempo and pitch")
    parser.add_argument("--allow-missing", action="store_true", help="of songs that lack a stem")
    parser.add_argument("--rate", type=int, default=48000, metavar="HZ")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out = args.out.resolve()  # the tables shall hold wherever they are read
    faults: list[str] = []
    try:
        if (args.out / "wav.scp").exists():
            raise Failure(f"{args.out}: holds songs; choose another OUT")
        whole = [Font(path, args.rate) for path in args.fonts]
        fonts = dict.fromkeys(STEMS, whole) | {
            "drums": whole + [Font(path, args.rate) for path in args.drum_fonts]
        }
        made = Collector(args.out, faults)
        for path in song_files(args.midi):
            try:
                song = read_song(path)
                lacking = [stem for stem in STEMS if not any(event.stem == stem for event in song)]
                if lacking and not args.allow_missing:
                    raise Failure(f"{path}: has no {' and no '.join(lacking)}; see --allow-missing")
                name = as_key(path.stem)
                for version in range(args.versions):
                    # A song is drawn alike whatever other songs there are.
                    rng = np.random.default_rng([args.seed, version, *name.encode()])
                    folder = args.out / "audio" / f"{name}-{version}"
                    make_folder(folder)
                    played = varied(song, rng) if args.vary else song
                    played = stretch(played, args.seconds, rng) if args.seconds else played
                    signals, by = render(played, fonts, rng)
                    for what, x in signals.items():
                        audio.write(folder / f"{what}.flac", x.T.astype(np.float32) / FULL, args.rate)
                    score = folder / "score.tsv"
                    lines = (
                        f"{stem}\t{on:.4f}\t{off:.4f}\t{note}\n" for stem, on, off, note in notes_of(played)
                    )
                    score.write_text("".join(lines), encoding="utf-8")
                    stems = {stem: folder / f"{stem}.flac" for stem in STEMS}
                    if made.add(folder.name, name, folder / "mixture.flac", None, **stems):
                        made.tables.setdefault("utt2score", {})[folder.name] = str(score)
                    print(f"{folder}: {', '.join(f'{stem} by {font}' for stem, font in by.items())}")
            except (Failure, AudioError) as error:
                made.fault(str(error))
        made.finish().write(args.out)
    except (Failure, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
