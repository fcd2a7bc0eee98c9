"""Print how much better stems are than the mix that they are taken out of: ours, and simple floors.

    python tools/compare/separators.py MIXES --model prism_48k --floors hpss centre denoise

MIXES holds NAME/STEM.wav and NAME/mixture.wav (`tools/corpora/mix_stems.py` makes them). For each system and
stem: SI-SDR of the estimate less that of the mix, in dB over both channels together, the mean over the mixes
with its 95 % interval. Floors:

- hpss: librosa's harmonic part is the music, and its percussive part the effects or the drums.
- bands: hpss, with all of its parts below 120 Hz taken for the bass.
- centre: what both channels have alike, by their cross-spectrum, is the speech or the vocals.
- denoise: the denoiser that ships makes the speech, and the rest is music and effects alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import soundfile as sf

from audiomask.runtime.session import Session

Stems = dict[str, np.ndarray]
SIZE, HOP = 4096, 1024


def si_sdr(ref: np.ndarray, est: np.ndarray) -> float:
    """Scale-invariant SDR (Le Roux et al. 2019) over all channels; nan for a silent reference."""
    ref, est = ref.astype(np.float64).ravel(), est.astype(np.float64).ravel()
    power = ref @ ref
    if power < 1e-8:
        return float("nan")
    target = (est @ ref) / power * ref
    return float(10 * np.log10((target @ target + 1e-12) / (((est - target) ** 2).sum() + 1e-12)))


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


FLOORS: dict[str, Callable[[np.ndarray, int], Stems]] = {
    "hpss": hpss,
    "bands": bands,
    "centre": centre,
    "denoise": denoise,
}


def ours(model: str) -> Callable[[np.ndarray, int], Stems]:
    def run(x: np.ndarray, rate: int) -> Stems:
        session = Session(model, sample_rate=rate, channels=2)
        fed, rest = session.feed(x), session.flush()
        return {name: np.concatenate([y, rest[name]], 1) for name, y in fed.items()}

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("mixes", type=Path)
    parser.add_argument("--model", nargs="*", default=[], help="models that separate: names, or .onnx files")
    parser.add_argument("--floors", nargs="*", default=[], choices=FLOORS)
    args = parser.parse_args()
    songs = sorted(path.parent for path in args.mixes.glob("*/mixture.wav"))
    if not songs:
        sys.exit(f"{args.mixes}: holds no NAME/mixture.wav; tools/corpora/mix_stems.py makes them")
    systems = {name: ours(name) for name in args.model} | {name: FLOORS[name] for name in args.floors}
    gains: dict[str, dict[str, list[float]]] = {name: {} for name in systems}
    before: dict[str, list[float]] = {}
    for song in songs:
        mix, rate = sf.read(song / "mixture.wav", dtype="float32", always_2d=True)
        stems = {p.stem: sf.read(p, dtype="float32", always_2d=True)[0].T for p in sorted(song.glob("*.wav"))}
        stems.pop("mixture")
        start = {name: si_sdr(ref, mix.T) for name, ref in stems.items()}
        for name, value in start.items():
            before.setdefault(name, []).append(value)
        for system, run in systems.items():
            for name, y in run(mix.T, rate).items():
                if name in stems:
                    gains[system].setdefault(name, []).append(si_sdr(stems[name], y) - start[name])
    names = list(before)
    print("| SI-SDR, dB | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    rows = {"the mix": before} | {f"{system}, better by": found for system, found in gains.items()}
    for system, found in rows.items():
        cells = [_cell(found.get(name, [])) for name in names]
        print(f"| {system} | " + " | ".join(cells) + " |")
    print(f"\n{len(songs)} mixes")


def _cell(values: list[float]) -> str:
    x = np.array(values)
    x = x[~np.isnan(x)]
    if not len(x):
        return "-"
    return f"{x.mean():.2f} +- {1.96 * x.std(ddof=1) / len(x) ** 0.5:.2f}" if len(x) > 1 else f"{x[0]:.2f}"


if __name__ == "__main__":
    main()
