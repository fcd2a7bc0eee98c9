"""Write the audio of a data directory anew, mono and at one rate.

Training resamples as it reads; a test set is converted once, so that reference, noisy and enhanced signals
have the rate of the published figures (16 kHz for VoiceBank+DEMAND, which comes at 48 kHz).
"""

from __future__ import annotations

from pathlib import Path

from audiomask import audio
from audiomask.data.kaldi.directory import DataDir, DataError, keyed_by, resampled, source_file


def convert(data: DataDir, out: str | Path, rate: int, allow_pipes: bool = False) -> DataDir:
    """Write every recording of `data` as 16-bit mono at `rate` Hz, and the data directory `out`.

    Recordings of every .scp go to OUT/audio/TABLE/KEY.wav, relative to `out`, which can thus be moved. Other
    tables stay: their times are in seconds. DataError for a key that cannot name a file.
    """
    out = Path(out)
    tables = {name: dict(table) for name, table in data.tables.items()}
    for name, table in tables.items():
        if not name.endswith(".scp") or keyed_by(name) is None:
            continue
        folder = out / "audio" / name.removesuffix(".scp")
        audio.make_folder(folder)
        for key, entry in table.items():
            if "/" in key or key.startswith("."):
                raise DataError(f"{data.path}/{name}: {key} cannot name a file; rename it")
            with source_file(data, entry, allow_pipes) as path:
                x, its_rate = audio.read(path)
            mono = resampled(audio.mixed(x, its_rate), its_rate, rate)
            audio.write(folder / f"{key}.wav", mono, rate, subtype="PCM_16", overwrite=True)
            table[key] = f"{folder.relative_to(out)}/{key}.wav"
    converted = DataDir(tables, out)
    if "reco2dur" in tables:
        tables["reco2dur"] = {key: f"{seconds:.4f}" for key, seconds in converted.durations().items()}
    converted.write(out)
    return converted
