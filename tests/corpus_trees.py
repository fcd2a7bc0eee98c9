"""Small corpora in the layout of the real ones, made of the excerpts that ship in egs/mini/denoise/corpus."""

import json
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from audiomask import audio
from audiomask.data.corpora.folder import read as from_folder
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.kaldi.directory import DataDir
from audiomask.masks.packets import Gilbert, per_sample, write_trace

MINI = Path(__file__).parents[1] / "egs/mini/denoise/corpus"
RATE = 16000


def mini(part: str) -> tuple[DataDir, DataDir]:
    """Speech and noise of "train" or "valid"."""
    return from_librispeech(MINI / "speech" / part), from_folder(MINI / "noise" / part)


@lru_cache(maxsize=64)
def excerpt(kind: str, number: int, seconds: float = 1.2) -> np.ndarray:
    """The loudest `seconds` of the `number`-th recording of "speech" or "noise", at 16 kHz, peak 0.3."""
    path = sorted((MINI / kind / "train").rglob("*.opus"))[number]
    x, rate = audio.read(path)
    x = soxr.resample(x[0], rate, RATE)
    n = round(seconds * RATE)
    starts = range(0, len(x) - n + 1, RATE // 10)
    at = max(starts, key=lambda i: float(np.square(x[i : i + n]).sum()))
    return x[at : at + n] * np.float32(0.3 / np.abs(x[at : at + n]).max())


def put(path: Path, x: np.ndarray, rate: int = RATE) -> Path:
    """`x`, at 16 kHz, as a 16-bit file at `rate` Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, x if rate == RATE else soxr.resample(x, RATE, rate), rate, "PCM_16")
    return path


def noisy(speech: int, noise: int) -> tuple[np.ndarray, np.ndarray]:
    """(noisy, clean)."""
    clean = excerpt("speech", speech)
    return clean + 0.5 * excerpt("noise", noise), clean


def voicebank(folder: Path) -> Path:
    """48 kHz. Two speakers to train on, the two of validation, the two of the test."""
    speakers = {"trainset_28spk": ("p226", "p227", "p228", "p287"), "testset": ("p232", "p257")}
    for part, names in speakers.items():
        for i, name in enumerate(names):
            for kind, x in zip(("noisy", "clean"), noisy(i, i + 1), strict=True):
                put(folder / f"{kind}_{part}_wav" / f"{name}_00{i + 1}.wav", x, 48000)
    return folder


def dns(folder: Path) -> Path:
    """The layout of 2021, with the synthetic test set of 2020."""
    data = folder / "datasets"
    for i in range(4):
        name = f"book_0000{i}_chp_0009_reader_0670{i}_{i}.wav"
        put(data / "clean/read_speech" / name, excerpt("speech", i))
        put(data / "noise" / f"noise_Freesound_{i}.wav", excerpt("noise", i))
    decay = np.exp(-np.arange(RATE // 4) / 800) * np.random.default_rng(0).standard_normal(RATE // 4) / 4
    for name in ("largeroom/Room001/Room001-00004", "smallroom/Room001/Room001-00004"):
        decay[0], decay = 1.0, decay * 0.9
        put(data / f"impulse_responses/SLR26/simulated_rirs_16k/{name}.wav", decay)
    isotropic = "RIRS_NOISES/real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1_1.wav"
    put(data / "impulse_responses/SLR28" / isotropic, excerpt("noise", 5))
    for i, noise in ((7, "traffic_248091_3_snr0_tl-21"), (12, "G3hs6PFniM0_snr4_tl-27")):
        x, clean = noisy(i, 5)
        put(data / f"test_set/synthetic/no_reverb/noisy/clnsp{i}_{noise}_fileid_{i}.wav", x)
        put(data / f"test_set/synthetic/no_reverb/clean/clean_fileid_{i}.wav", clean)
    return folder


def chime3(folder: Path) -> Path:
    """Every kind of set, some utterances each; isolated_ext holds what the patched simulation writes."""
    root = folder / "data/audio/16kHz"
    for i, speaker in enumerate(("011", "012", "013")):
        put(root / f"isolated/tr05_org/{speaker}_011C0201_ORG.wav", excerpt("speech", i))
    for i, stem in enumerate(("BGD_150203_010_CAF", "BGD_150203_020_CAF", "BGD_150204_010_BUS")):
        for n in range(1, 7):
            put(root / f"backgrounds/{stem}.CH{n}.wav", excerpt("noise", i, 2.5) * (1 - n / 20))
    sets = {
        "tr05_bus_simu/011_011C0201_BUS": 1,
        "dt05_bth/F01_050C0101_BTH": 0,
        "dt05_bth/M03_050C0102_BTH": 0,
        "et05_caf_simu/F05_440C0201_CAF": 1,
        "et05_caf_real/F05_440C0201_CAF": 0,
    }
    for i, (stem, first) in enumerate(sets.items()):
        x, clean = noisy(i + 3, i)
        for n in range(first, 7):
            put(root / f"isolated/{stem}.CH{n}.wav", x if "_bth" not in stem else clean)
            if "_simu" in stem:
                put(root / f"isolated_ext/{stem}.CH{n}.Clean.wav", clean)
    (folder / "data/annotations").mkdir(parents=True)
    (folder / "data/annotations/dt05_bth.json").write_text("[]\n")
    return folder


def plc(folder: Path) -> Path:
    """Interspeech 2022: four recordings to train on, two of the blind set, whose references lie elsewhere."""
    parts = {"test_train/train": range(1, 5), "blind": range(5, 7)}
    for part, numbers in parts.items():
        for i in numbers:
            x = excerpt("speech", i)
            lost = Gilbert.of(0.2, 2).sample(np.array([i]), 60)[0]
            sent = "blind_set_reference" if part == "blind" else f"{part}/clean_signals"
            put(folder / sent / f"{i}.wav", x)
            put(folder / part / f"lossy_signals/{i}.wav", np.where(per_sample(lost, len(x), 320), 0, x))
            write_trace(folder / part / f"lossy_signals/{i}_is_lost.txt", lost)
    return folder


def vctk(folder: Path) -> Path:
    """0.92: two recordings of each of six talkers, by both microphones."""
    for i, name in enumerate(("p225", "p226", "p232", "p257", "p287", "s5")):
        for n in (1, 2):
            for mic in (1, 2):
                path = folder / f"wav48_silence_trimmed/{name}/{name}_00{n}_mic{mic}.flac"
                put(path, excerpt("speech", (i + n) % 8) / mic, 48000)
    return folder


def libritts(folder: Path) -> Path:
    """Two utterances of each of two readers in every part that the recipe asks for, with their texts."""
    for p, part in enumerate(("train-clean-100", "dev-clean", "test-clean")):
        for reader in (100 + p, 200 + p):
            for n in (1, 2):
                name = f"{reader}_7_00000{n}_00000{n}"
                path = put(
                    folder / f"{part}/{reader}/7/{name}.wav", excerpt("speech", (reader + n) % 8), 24000
                )
                path.with_suffix(".normalized.txt").write_text("Words.\n")
    return folder


def voxpopuli(folder: Path) -> Path:
    """Four sittings as its scripts leave them: segments of speech in two languages, and transcribed ones."""
    sittings = ["20180206-0900-PLENARY-5", "20190115-0900-PLENARY-3", "20200115-1500-PLENARY-9"]
    for i, sitting in enumerate([*sittings, "20200210-1700-COMMITTEE-ENVI"]):
        names = [
            f"unlabelled_data/{lang}/{sitting[:4]}/{sitting}_{lang}_{n}"
            for lang in ("de", "en")
            for n in range(2 if lang == "en" else 1)
        ]
        if i < 2:
            names.append(f"transcribed_data/en/{sitting[:4]}/{sitting}-en_{sitting[:8]}-11:03:54_{i}")
        for n, name in enumerate(names):
            path = folder / f"{name}.ogg"
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, excerpt("speech", (3 * i + n) % 8), RATE, format="OGG", subtype="VORBIS")
    return folder


def musdb(folder: Path) -> Path:
    """HQ: three songs to train on, two of those of the validation, one to test on, in stereo at 44.1 kHz."""
    songs = {
        "train": ("A Band - One", "A Band - Two", "B - Three", "Leaf - Summerghost", "ANiMAL - Rockshow"),
        "test": ("C - Four",),
    }
    number = 0
    for part, names in songs.items():
        for name in names:
            stems = []
            for i, stem in enumerate(("vocals", "drums", "bass", "other")):
                x = excerpt(("speech", "noise")[i % 2], (number + i) % 8)
                stems.append(soxr.resample(np.stack([x, 0.5 * x[::-1]], 1), RATE, 44100))
                write_stereo(folder / f"{part}/{name}/{stem}.wav", stems[-1])
            write_stereo(folder / f"{part}/{name}/mixture.wav", sum(stems))
            number += 1
    return folder


def dnr(folder: Path) -> Path:
    """Version 2 beside two languages of version 3, a track in each part; 44.1 kHz."""
    places = [f"tr/100{i}" for i in range(2)] + ["cv/1002", "tt/1003"]
    places += [
        f"{language}/{part}/000001" for language in ("deu", "eng") for part in ("train", "val", "test")
    ]
    for number, place in enumerate(places):
        new = place[2] != "/"
        x = {
            "speech": excerpt("speech", number % 8),
            "music": 0.5 * excerpt("noise", number % 8),
            "sfx": 0.5 * excerpt("noise", (number + 3) % 8),
        }
        for name, signal in x.items():
            put(folder / place / f"{name}.wav", signal, 44100)
        put(folder / place / ("mixture.wav" if new else "mix.wav"), sum(x.values()), 44100)
        (folder / place / "annots.csv").write_text("file,class\n")
    return folder


def slakh(folder: Path) -> Path:
    """Two songs to train on, one of each other part, of six instruments; the last was not rendered."""
    classes = ("Drums", "Bass", "Piano", "Guitar", "Synth Lead", "Strings (continued)")
    places = ("train/Track00001", "train/Track00002", "validation/Track01501", "test/Track01876")
    for number, place in enumerate([*places, "omitted/Track00003"]):
        lines, x = ["UUID: 1a81ae092884234f3264e2f45927f00a", "overall_gain: 0.17", "stems:"], []
        for i, name in enumerate(classes):
            rendered = i < len(classes) - 1
            lines += [
                f"  S{i:02}:",
                f"    audio_rendered: {str(rendered).lower()}",
                f"    inst_class: {name}",
            ]
            if rendered:
                x.append(0.3 * excerpt(("noise", "speech")[i % 2], (number + i) % 8))
                put(folder / place / f"stems/S{i:02}.flac", x[-1], 44100)
        (folder / place / "metadata.yaml").write_text("\n".join(lines) + "\n")
        put(folder / place / "mix.flac", sum(x), 44100)
    return folder


def moisesdb(folder: Path) -> Path:
    """Three songs, two of one artist; their drums are two tracks, the second short, and one has no bass."""
    for number, artist in enumerate(("A Band", "A Band", "B")):
        song = folder / f"moisesdb_v0.1/song-{number}"
        stems = {"vocals": 1, "drums": 2, "bass": int(number < 2), "guitar": 1, "percussion": 1}
        about = []
        for i, (stem, count) in enumerate(stems.items()):
            names = [f"{number}{i}{n}" for n in range(count)]
            for n, name in enumerate(names):
                x = 0.3 * excerpt(("speech", "noise")[min(i, 1)], (number + i + n) % 8)
                x = np.stack([x, 0.5 * x], 1)[: len(x) - 1600 * n]
                write_stereo(song / stem / f"{name}.wav", soxr.resample(x, RATE, 44100))
            tracks = [{"id": name, "extension": "wav", "trackType": stem} for name in names]
            about += [{"stemName": stem, "tracks": tracks}] if tracks else []
        (song / "data.json").write_text(json.dumps({"artist": artist, "song": "One", "stems": about}))
    return folder


def write_stereo(path: Path, x: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.clip(x, -1, 1), 44100, "PCM_16")


def compressed(folder: Path) -> Path:
    """MUSDB18: the songs of `musdb` as one .stem.mp4 each, with the mix and its stems; needs PyAV."""
    import av

    for song in sorted(musdb(folder).glob("*/*")):
        with av.open(str(song.with_name(f"{song.name}.stem.mp4")), "w", format="mp4") as out:
            names = ("mixture", "drums", "bass", "other", "vocals")
            streams = [out.add_stream("aac", rate=44100, layout="stereo") for _ in names]
            for stream, name in zip(streams, names, strict=True):
                x = sf.read(song / f"{name}.wav", dtype="float32")[0].T
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(x), "fltp", "stereo")
                frame.sample_rate, frame.pts = 44100, 0
                for packet in [*stream.encode(frame), *stream.encode(None)]:
                    out.mux(packet)
        shutil.rmtree(song)
    return folder


ESC_CLASSES = {"dog": (0, True), "rain": (10, True), "clapping": (22, False)}


def esc50(folder: Path) -> Path:
    """Three of the classes, two of them of ESC-10, a clip of each in every fold; 44.1 kHz."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for i, (name, (target, esc10)) in enumerate(ESC_CLASSES.items()):
            file = f"{fold}-{1000 * fold + i}-A-{target}.wav"
            put(folder / "ESC-50-master/audio" / file, excerpt("noise", 3 * fold + i), 44100)
            lines.append(f"{file},{fold},{target},{name},{esc10},{1000 * fold + i},A")
    (folder / "ESC-50-master/meta").mkdir()
    (folder / "ESC-50-master/meta/esc50.csv").write_text("\n".join(lines) + "\n")
    return folder


def esc10(folder: Path) -> Path:
    """The older layout: a folder for each class."""
    for i, name in enumerate(("001 - Dog bark", "002 - Rain")):
        for fold in range(1, 6):
            put(folder / f"{name}/{fold}-{1000 * fold + i}-A.wav", excerpt("noise", 3 * fold + i), 44100)
    return folder


def speechcommands(folder: Path) -> Path:
    """Two commands and two other words by four speakers, noises, lists; beside it the test archive."""
    speakers = ("0a7c2a8d", "1b4c9b89", "cb2929ce", "ffd2ba2f")
    for i, who in enumerate(speakers):
        for j, word in enumerate(("yes", "go", "bed", "marvin")):
            put(folder / f"{word}/{who}_nohash_0.wav", excerpt("speech", 2 * i + j, 1.0))
    for i, name in enumerate(("pink_noise", "running_tap")):
        put(folder / f"_background_noise_/{name}.wav", excerpt("noise", i, 2.5))
    for name, who in (("validation", speakers[2]), ("testing", speakers[3])):
        words = ("yes", "go", "bed", "marvin")
        (folder / f"{name}_list.txt").write_text("".join(f"{w}/{who}_nohash_0.wav\n" for w in words))
    archive = folder.with_name(folder.name + "_test")
    for i, label in enumerate(("yes", "go", "_unknown_", "_silence_")):
        put(archive / f"{label}/{speakers[3]}_nohash_0.wav", excerpt("speech", i, 1.0))
    return folder


def audioset(folder: Path) -> Path:
    """Two tables of three clips each, one of them no longer to be had; the clips named in three ways."""
    (folder / "clips/eval").mkdir(parents=True)
    labels = ("/m/09x0r,Speech", '/m/05zppz,"Male speech, man speaking"', "/m/0bt9lr,Dog")
    (folder / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels))
    )
    head = "# Segments csv created\n# YTID, start_seconds, end_seconds, positive_labels\n"
    files = (
        "train/Y-0RWZT-miFs.wav",
        "train/0_abcdefghi_30.000.wav",
        "eval/_k9abcdefgh_20_21.wav",
        "eval/YbcdefghijK.wav",
    )
    keys = ("-0RWZT-miFs", "0_abcdefghi", "_k9abcdefgh", "YbcdefghijK")
    for i, name in enumerate(files):
        put(folder / "clips" / name, excerpt("speech", i))
    mids = ("/m/09x0r,/m/05zppz", "/m/0bt9lr", "/m/09x0r", "/m/0bt9lr")
    for part, there in (("balanced_train", (0, 1)), ("eval", (2, 3))):
        lines = [f'{keys[i]}, 30.000, 31.000, "{mids[i]}"\n' for i in there]
        lines.append(f'gone_{part[:6]}, 0.000, 10.000, "/m/0bt9lr"\n')
        (folder / f"{part}_segments.csv").write_text(head + "".join(lines))
    return folder


def spoil(path: Path, how: str) -> Path:
    """Make a file of a corpus missing, empty, cut short or no audio."""
    if how == "missing":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "truncated": whole[: len(whole) // 2], "not audio": b"<html>" * 99}[how]
        )
    return path
