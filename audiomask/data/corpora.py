"""Import VoiceBank+DEMAND, DNS, CHiME-3, PLC Challenge and VCTK as they are distributed.

Each function takes the folder that holds the unpacked corpus and returns data directories by name. All
missing partners, corrupt files and double keys are found before anything is written, see
`importers.Collector`, whose `skipped` every function takes.
"""

from __future__ import annotations

import re
from pathlib import Path

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.importers import Collector, as_key, audio_files
from audiomask.data.kaldi import DataDir, DataError
from audiomask.masks.packets import TRACE_MS, read_trace

CHIME3_CHANNELS = range(1, 7)  # of the tablet; CH0 is the speaker's headset, on a recorder of its own


def from_voicebank(folder: str | Path, skipped: list[str] | None = None) -> dict[str, DataDir]:
    """Return the directories of VoiceBank+DEMAND (Edinburgh DataShare 10283/2791).

    There is one for each X of trainset_28spk, trainset_56spk and testset, from clean_X_wav and noisy_X_wav,
    with the noisy recordings in wav.scp and the clean ones in clean.scp. No utterance may be in two: a test
    set must not be trained on.
    """
    folder = Path(folder)
    out: dict[str, DataDir] = {}
    for noisy in sorted(folder.glob("noisy_*_wav")):
        part = noisy.name.removeprefix("noisy_").removesuffix("_wav")
        clean = folder / f"clean_{part}_wav"
        found = Collector(noisy, skipped)
        for path in audio_files(noisy):
            inside = [p for p, data in out.items() if path.stem in data.tables["wav.scp"]]
            if inside:
                found.fault(f"{path}: {path.stem} is in {inside[0]} too; remove it from one of them")
                continue
            found.add(path.stem, path.stem.split("_")[0], path, clean=clean / path.relative_to(noisy))
        for path in audio_files(clean):
            if not (noisy / path.relative_to(clean)).is_file():
                found.fault(f"{path}: its noisy partner is missing in {noisy}; unpack it again")
        out[part] = found.finish()
    if not out:
        raise DataError(f"{folder}: no noisy_*_wav folders; this is not the layout of VoiceBank+DEMAND")
    return out


def from_dns(folder: str | Path, skipped: list[str] | None = None) -> dict[str, DataDir]:
    """Return the directories of the DNS challenge of 2020 and 2021.

    `folder` is `datasets`, with {clean,noise,impulse_responses,test_set}, or the folder round it. The
    directories are `clean` (speakers: the reader in book_B_chp_C_reader_R_N, or else the folder), `noise`
    (every clip its own kind, since names do not tell) and, where present, `rooms` (impulse responses, kind:
    the room) and `test_no_reverb`, `test_with_reverb`: pairs by the number after `_fileid_`. A recording that
    lies in two folders, as after unpacking two editions over each other, is a fault.
    """
    root = Path(folder)
    root = root / "datasets" if (root / "datasets").is_dir() else root
    seen: dict[tuple[str, int], list[Path]] = {}
    out = {}
    for name in ("clean", "noise", "impulse_responses"):
        part = root / name
        if name == "impulse_responses" and not part.is_dir():
            continue  # the edition of 2020 lacks it
        found = Collector(part, skipped, seen)
        for path in audio_files(part):
            inside = path.relative_to(part)
            stem = as_key(str(inside.with_suffix("")))
            if name == "impulse_responses":
                if "noise" in path.name:
                    continue  # OpenSLR 28 keeps recordings of the rooms' own noise among their responses
                found.add(stem, as_key(str(inside.parent)), path)
            elif name == "clean":
                reader = re.search(r"reader_\d+", path.stem)
                who = reader.group() if reader else as_key(inside.parts[0] if len(inside.parts) > 1 else stem)
                found.add(f"{who}-{stem}", who, path)
            else:
                found.add(stem, stem, path)
        out["rooms" if name == "impulse_responses" else name] = found.finish()
    for part in sorted(root.glob("test_set/synthetic/*/noisy")):
        out[f"test_{part.parent.name}"] = _dns_pairs(part, skipped)
    return out


def _dns_pairs(noisy: Path, skipped: list[str] | None) -> DataDir:
    """Return the pairs of `noisy` and the folder `clean` beside it, with keys fileid_N."""
    found, clean = Collector(noisy, skipped), noisy.parent / "clean"
    sides: list[dict[str, Path]] = [{}, {}]
    for side, folder in zip(sides, (noisy, clean), strict=True):
        for path in audio_files(folder):
            match = re.search(r"fileid_\d+$", path.stem)
            if not match:
                found.fault(f"{path}: its name does not end in _fileid_NUMBER; remove or rename it")
            elif match.group() in side:
                found.fault(f"{path}: makes the same key {match[0]} as {side[match[0]]}; remove one")
            else:
                side[match.group()] = path
    for key, path in sides[0].items():
        found.add(key, key, path, clean=sides[1].get(key, clean / f"clean_{key}.wav"))
    for key in sides[1].keys() - sides[0].keys():
        found.fault(f"{sides[1][key]}: no *_{key}.wav in {noisy}; unpack it again")
    return found.finish()


def from_chime3(
    folder: str | Path,
    channel: int = 5,
    references: str | Path | None = None,
    skipped: list[str] | None = None,
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
    if channel not in CHIME3_CHANNELS:
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
                channels = {f"ch{n}": part / f"{stem}.CH{n}.wav" for n in CHIME3_CHANNELS}
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


def from_plc(
    folder: str | Path, references: str | Path | None = None, skipped: list[str] | None = None
) -> dict[str, DataDir]:
    """Return the directories of the PLC Challenge of Interspeech 2022, one for each part.

    Part (train, blind, ...) has PART/lossy_signals/N.wav, N_is_lost.txt beside it, and
    PART/clean_signals/N.wav. wav.scp and clean.scp list the signals sent, lossy.scp those that arrived,
    utt2trace the packets lost. The blind set came without the signals sent; `references` is the folder into
    which they were unpacked later, and without it wav.scp lists those that arrived and there is no clean.scp.
    Talkers are not named: each recording is its own.
    """
    folder = Path(folder)
    seen: dict[tuple[str, int], list[Path]] = {}
    out: dict[str, DataDir] = {}
    for lossy in sorted(folder.rglob("lossy_signals")):
        part, clean = lossy.parent.name, lossy.parent / "clean_signals"
        if part in out:
            raise DataError(f"{lossy}: there are two parts named {part}; keep them in different folders")
        if not clean.is_dir() and references is not None:
            clean = Path(references)
        sent = {path.stem: path for path in audio_files(clean)} if clean.is_dir() else None
        found, traces = Collector(lossy, skipped, seen), {}
        for path in audio_files(lossy):
            trace = path.with_name(f"{path.stem}_is_lost.txt")
            try:
                short = len(read_trace(trace)) + 1 < audio.info(path).seconds * 1000 / TRACE_MS
            except AudioError as error:
                found.fault(str(error))
                continue
            if short:
                found.fault(f"{trace}: has fewer packets of {TRACE_MS:g} ms than {path.name}")
            elif sent is None:
                found.add(path.stem, path.stem, path)
            else:
                wav = sent.get(path.stem, clean / path.name)
                if not wav.is_file():
                    found.fault(f"{path}: what was sent, {wav}, is missing; unpack the corpus again")
                    continue
                found.add(path.stem, path.stem, wav, clean=wav, lossy=path)
            traces[path.stem] = str(trace)
        arrived = {path.stem for path in audio_files(lossy)}
        for path in [p for stem, p in (sent or {}).items() if stem not in arrived]:
            found.fault(f"{path}: nothing of its name in {lossy}; unpack it again")
        data = found.finish()
        data.tables["utt2trace"] = {key: traces[key] for key in data.recordings}
        out[part] = data
    if not out:
        raise DataError(
            f"{folder}: no folders lossy_signals below it; this is not the PLC Challenge's layout"
        )
    return out


def from_vctk(folder: str | Path, skipped: list[str] | None = None) -> DataDir:
    """Return VCTK as a data directory, with keys SPEAKER_N.

    Files are wav48_silence_trimmed/SPEAKER/SPEAKER_N_mic1.flac (0.92) or wav48/SPEAKER/SPEAKER_N.wav (0.80).
    The first microphone of 0.92 is taken, since two speakers lack the second.
    """
    folder = Path(folder)
    found = Collector(folder, skipped)
    for path in audio_files(folder):
        match = re.fullmatch(r"((?:p|s)\d+)_\d+(?:_mic([12]))?", path.stem)
        if not match or match.group(1) != path.parent.name:
            found.fault(f"{path}: not a name of VCTK (SPEAKER/SPEAKER_N_micM.flac); remove it")
        elif match.group(2) != "2":
            found.add(path.stem.removesuffix("_mic1"), match.group(1), path)
    return found.finish()
