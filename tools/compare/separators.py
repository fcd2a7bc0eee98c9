"""Print how much better stems are than the mix that they are taken out of: ours, and simple floors.

    python tools/compare/separators.py MIXES --model prism_48k --floors hpss centre denoise

MIXES holds NAME/STEM.wav and NAME/mixture.wav, or .flac (`tools/corpora/mix_stems.py` makes them, and
`render_stems.py` in OUT/audio). For each system and stem: SI-SDR of the estimate less that of the mix, in dB,
the mean over channels and mixes with its 95 % bootstrap interval. Floors:

- hpss: librosa's harmonic part is the music, and its percussive part the effects or the drums.
- bands: hpss, with all of its parts below 120 Hz taken for the bass.
- centre: what both channels have alike, by their cross-spectrum, is the speech or the vocals.
- denoise: the denoiser that ships makes the speech, and the rest is music and effects alike.

--gain turns what the systems hear, and turns their stems back, to see what they make of other levels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np

from audiomask import audio, metrics
from audiomask.cli._common import table
from audiomask.runtime.session import Session

Stems = dict[str, np.ndarray]
System = Callable[[np.ndarray, int], Stems]
SIZE, HOP, MIX, ALONE = 4096, 1024, "mixture", "the mix"


def transformed(x: np.ndarray) -> np.ndarray:
    return librosa.stft(x, n_fft=SIZE, hop_length=HOP)


def back(spectrum: np.ndarray, samples: int) -> np.ndarray:
    return librosa.istft(spectrum, hop_length=HOP, length=samples)


def hpss(x: np.ndarray, rate: int) -> Stems:
    harmonic, percussive = librosa.decompose.hpss(transformed(x))
    h, p = (back(part, x.shape[1]) for part in (harmonic, percussive))
    return {"music": h, "effects": p, "drums": p, "other": h}


def bands(x: np.ndarray, rate: int) -> Stems:
    harmonic, percussive = librosa.decompose.hpss(transformed(x))
    low = (librosa.fft_frequencies(sr=rate, n_fft=SIZE) < 120)[:, None]
    parts = {"drums": percussive, "bass": harmonic * low, "other": harmonic * ~low}
    return {name: back(part, x.shape[1]) for name, part in parts.items()}


def centre(x: np.ndarray, rate: int) -> Stems:
    left, right = transformed(x)
    alike = (2 * (left * right.conj()).real / (abs(left) ** 2 + abs(right) ** 2 + 1e-12)).clip(0, 1)
    y = back(np.stack([left, right]) * alike, x.shape[1])
    return {"speech": y, "vocals": y}


def denoise(x: np.ndarray, rate: int) -> Stems:
    session = Session(None, sample_rate=rate, channels=2)
    y = np.concatenate([session.feed(x), session.flush()], 1)
    return {"speech": y, "music": (x - y) / 2, "effects": (x - y) / 2}


FLOORS: dict[str, System] = {
    "hpss": hpss,
    "bands": bands,
    "centre": centre,
    "denoise": denoise,
}


def ours(model: str) -> System:
    def run(x: np.ndarray, rate: int) -> Stems:
        session = Session(model, sample_rate=rate, channels=2)
        fed, rest = session.feed(x), session.flush()
        return {name: np.concatenate([y, rest[name]], 1) for name, y in fed.items()}

    return run


def turned(system: System, db: float) -> System:
    """A system that hears everything louder by so many decibels, and whose stems are turned back."""
    gain = np.float32(10 ** (db / 20))
    return lambda x, rate: {name: y / gain for name, y in system(gain * x, rate).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("mixes", type=Path)
    parser.add_argument("--model", nargs="*", default=[], help="models that separate: names, or .onnx files")
    parser.add_argument("--floors", nargs="*", default=[], choices=FLOORS)
    parser.add_argument("--gain", type=float, default=0.0, metavar="DB", help="of what the systems hear")
    args = parser.parse_args()
    systems = {name: ours(name) for name in args.model} | {name: FLOORS[name] for name in args.floors}
    gains = improvements(args.mixes, {name: turned(run, args.gain) for name, run in systems.items()})
    names = list(gains[ALONE])
    rows = [[system, *(_cell(found.get(name, [])) for name in names)] for system, found in gains.items()]
    print(table(["SI-SDR, dB", *names], rows))
    print(f"{len(gains[ALONE][names[0]])} mixes; by how much each system is better than the mix")


def improvements(mixes: Path, systems: dict[str, System]) -> dict[str, dict[str, list[float]]]:
    """SI-SDR of each system and stem less that of the mix, by mix; that of the mix itself is the first."""
    songs = sorted(mixes.glob(f"*/{MIX}.*"))
    if not songs:
        sys.exit(f"{mixes}: holds no NAME/{MIX}.wav or .flac; tools/corpora/mix_stems.py makes them")
    gains: dict[str, dict[str, list[float]]] = {name: {} for name in (ALONE, *systems)}
    for song in songs:
        mix, rate = audio.read(song)
        files = sorted(song.parent.glob(f"*{song.suffix}"))
        stems = {path.stem: audio.read(path)[0] for path in files if path != song}
        before = {name: si_sdr(ref, mix, rate) for name, ref in stems.items()}
        for name, value in before.items():
            gains[ALONE].setdefault(name, []).append(value)
        for system, run in systems.items():
            for name, y in run(mix, rate).items():
                if name in stems:
                    better = si_sdr(stems[name], y, rate) - before[name]
                    gains[system].setdefault(name, []).append(better)
    return gains


def si_sdr(ref: np.ndarray, est: np.ndarray, rate: int) -> float:
    return metrics.score(ref, est, rate, ["si_sdr"])["si_sdr"]


def _cell(values: list[float]) -> str:
    s = metrics.summarize(values)
    return f"{s.mean:.2f} ({s.low:.2f} .. {s.high:.2f})" if s.n else "-"


if __name__ == "__main__":
    main()
