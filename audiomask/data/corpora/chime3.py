"""Import CHiME-3 (LDC2017S24), from a file for each channel."""

from __future__ import annotations

import re
from pathlib import Path

from audiomask.data.kaldi.collector import Collector, audio_files
from audiomask.data.kaldi.directory import DataDir, DataError

CHANNELS = range(1, 7)  # of the tablet; CH0 is the speaker's headset, on a recorder of its own
OPTIONS = {
    "channel": ("N", "microphone (default: 5)", int),
    "references": ("DIR", "the simulation's isolated_ext", Path),
}


def read(
    folder: str | Path,
    skipped: list[str] | None = None,
    *,
    channel: int = 5,
    references: str | Path | None = None,
) -> dict[str, DataDir]:
    """Return the directories of CHiME-3 (LDC2017S24), from a file for each channel.

    These are {tr05,dt05,et05}_{simu,real,bth} and tr05_org (the clean WSJ0 utterances that the simulation
    starts from), where present, with keys as Kaldi's recipe makes them (F01_050C0101_BUS_SIMU), and `noise`,
    the backgrounds, whose kind is the environment; files are in data/audio/16kHz/{isolated,backgrounds}.
    wav.scp lists `channel` (Kaldi's baseline takes the fifth) and ch1.scp to ch6.scp list all of them, so
    that a model of several channels finds the same moment in each.

    The corpus lacks the clean image of the simulated speech at the microphones, which the simulation filters
    and scales. The organisers' script as patched for ESPnet writes it to isolated_ext/X_simu/*.CHn.Clean.wav;
    give that folder as `references` for a clean.scp of the simulated parts.
    """
    root = Path(folder) / "data/audio/16kHz"
    if channel not in CHANNELS:
        raise DataError(f"channel {channel}: the tablet has the channels 1 to 6")
    if not (root / "isolated").is_dir():
        raise DataError(f"{root}/isolated: no such folder; name the folder CHiME3 that holds data/audio")
    parts: dict[str, list[Path]] = {}
    for part in sorted((root / "isolated").iterdir()):
        if match := re.fullmatch(r"(tr05|dt05|et05)(?:_(?:bus|caf|ped|str))?_(simu|real|bth|org)", part.name):
            parts.setdefault("_".join(match.groups()), []).append(part)
    if (root / "backgrounds").is_dir():
        parts["noise"] = [root / "backgrounds"]
    if not parts:
        raise DataError(f"{root}/isolated: no folders such as tr05_bus_simu; this is not CHiME-3's layout")
    out = {}
    for name, folders in parts.items():
        found = Collector(folders[0] if len(folders) == 1 else root / "isolated", skipped)
        for part in folders:
            stems: dict[str, Path] = {}
            for path in audio_files(part):
                if match := re.fullmatch(r"(.+)\.CH[1-6]", path.stem):
                    stems.setdefault(match.group(1), part)
                elif name.endswith("_org"):
                    found.add(path.stem, path.stem.split("_")[0], path)
                elif not path.stem.endswith(".CH0"):
                    found.fault(f"{path}: not a CHiME-3 name (SPEAKER_PROMPT_PLACE.CHn.wav); remove it")
            for stem in stems:
                kind = name.rpartition("_")[2]
                channels = {f"ch{n}": part / f"{stem}.CH{n}.wav" for n in CHANNELS}
                wav = channels[f"ch{channel}"]
                if not wav.is_file():
                    found.fault(f"{wav}: missing, other channels of it are there; unpack it again")
                    continue
                if kind == "simu" and references is not None:
                    channels["clean"] = Path(references) / part.name / f"{stem}.CH{channel}.Clean.wav"
                speaker = stem.rpartition("_")[2] if name == "noise" else stem.partition("_")[0]
                key = f"{speaker}-{stem}" if name == "noise" else stem
                key = f"{key}_{kind.upper()}" if kind in ("simu", "real") else key
                found.add(key, speaker, wav, None, **channels)
        out[name] = found.finish()
    return out
