"""Rendered stems sum to the mixture, notes lie in the stem of their instrument, and every fault is named."""

import importlib
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiomask.data.crops.scores import read_score
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

TOOL = Path(__file__).parents[2] / "tools/corpora/render_stems.py"
RATE = 16000
mido = pytest.importorskip("mido")
pytest.importorskip("tinysoundfont")


def chunk(name: str, data: bytes) -> bytes:
    return name.encode() + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def listed(name: str, data: bytes) -> bytes:
    return chunk("LIST", name.encode() + data)


def sound_font(path: Path, presets: list[tuple[int, int]], pitch: int = 60) -> Path:
    """Write a sound font whose presets (bank, program) all play one looped sine that has key `pitch`."""
    wave = (np.sin(2 * np.pi * np.arange(64) / 64) * 16000).astype("<i2")
    samples = wave.tobytes() * 4 + b"\0" * 92  # 46 zeros behind a sample, by the standard
    generators = [(54, 1), (53, 0)]  # loop; the sample comes last
    headers = [(f"p{i}", program, bank, i) for i, (bank, program) in enumerate(presets)]
    n = len(presets)
    pdta = [
        chunk(
            "phdr",
            b"".join(struct.pack("<20sHHHIII", name.encode(), p, b, i, 0, 0, 0) for name, p, b, i in headers)
            + struct.pack("<20sHHHIII", b"EOP", 0, 0, n, 0, 0, 0),
        ),
        chunk("pbag", b"".join(struct.pack("<HH", i, 0) for i in range(n + 1))),
        chunk("pmod", b"\0" * 10),
        chunk("pgen", b"".join(struct.pack("<HH", 41, 0) for _ in range(n)) + b"\0" * 4),
        chunk("inst", struct.pack("<20sH", b"sine", 0) + struct.pack("<20sH", b"EOI", 1)),
        chunk("ibag", struct.pack("<HH", 0, 0) + struct.pack("<HH", len(generators), 0)),
        chunk("imod", b"\0" * 10),
        chunk("igen", b"".join(struct.pack("<HH", *g) for g in generators) + b"\0" * 4),
        chunk(
            "shdr",
            struct.pack("<20sIIIIIBbHH", b"sine", 0, 256, 64, 192, RATE, pitch, 0, 0, 1)
            + struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0),
        ),
    ]
    info = chunk("ifil", struct.pack("<HH", 2, 1)) + chunk("isng", b"EMU8000\0") + chunk("INAM", b"test\0\0")
    riff = (
        b"sfbk"
        + listed("INFO", info)
        + listed("sdta", chunk("smpl", samples))
        + listed("pdta", b"".join(pdta))
    )
    path.write_bytes(chunk("RIFF", riff))
    return path


GENERAL = [(0, program) for program in range(128)] + [(128, 0), (128, 8)]


def song(path: Path, notes: list[tuple[int, int, int]]) -> Path:
    """Write a song of half a second for each of (channel, program, key), one after the other."""
    track = mido.MidiTrack()
    for channel, program, key in notes:
        track.append(mido.Message("program_change", channel=channel, program=program))
        track.append(mido.Message("note_on", channel=channel, note=key, velocity=100))
        track.append(mido.Message("note_off", channel=channel, note=key, time=480))
    file = mido.MidiFile(ticks_per_beat=480)
    file.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save(path)
    return path


BAND = [(9, 0, 38), (0, 33, 40), (1, 0, 60), (2, 116, 50)]  # drum, bass, piano, taiko


@pytest.fixture
def render(tmp_path, monkeypatch, capsys):
    """`render(*words)` runs the tool in `tmp_path`; `render.font` is a font of General MIDI."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TOOL.parent))
    tool = importlib.import_module(TOOL.stem)

    def call(*words):
        monkeypatch.setattr(sys, "argv", [TOOL.name, *map(str, words), "--rate", str(RATE)])
        code = tool.main()
        call.said, error = capsys.readouterr()
        return code, error

    call.font = sound_font(tmp_path / "general.sf2", GENERAL)
    return call


def signals(folder: Path) -> dict[str, np.ndarray]:
    """The files `[T, 2]` of a song in steps of 16 bits."""
    return {path.stem: sf.read(path, dtype="int16")[0].astype(int) for path in folder.glob("*.flac")}


def heard(x: np.ndarray) -> list[int]:
    """The half seconds of the first two seconds in which something sounds."""
    return [i for i in range(4) if np.abs(x[i * RATE // 2 :][1000 : RATE // 2 - 100]).max() > 300]


def test_notes_lie_in_their_stems_and_the_stems_sum_to_the_mixture(render, tmp_path):
    song(tmp_path / "in/a song.mid", BAND)
    assert render("in", "--fonts", render.font, "-o", "out") == (0, "")
    assert validate(tmp_path / "out") == []
    data = DataDir.read(tmp_path / "out")
    assert data.tables["utt2spk"] == {"a_song-0": "a_song"}
    assert {"wav.scp", "drums.scp", "bass.scp", "other.scp"} < set(data.tables)
    x = signals(tmp_path / "out/audio/a_song-0")
    assert (x["mixture"] == x["drums"] + x["bass"] + x["other"]).all()
    assert max(np.abs(y).max() for y in x.values()) == round(0.9 * 2**15)
    assert {name: heard(y) for name, y in x.items()} == {
        "mixture": [0, 1, 2, 3],
        "drums": [0, 3],
        "bass": [1],
        "other": [2],
    }
    score = read_score(Path(data.tables["utt2score"]["a_song-0"]))
    assert {stem: notes.tolist() for stem, notes in score.items()} == {
        "drums": [[0.0, 0.5, 38.0], [1.5, 2.0, 50.0]],
        "bass": [[0.5, 1.0, 40.0]],
        "other": [[1.0, 1.5, 60.0]],
    }
    code, error = render("in", "--fonts", render.font, "-o", "out")
    assert (code, "choose another OUT" in error) == (1, True)


def test_a_note_that_is_struck_again_has_ended(render, tmp_path):
    track = mido.MidiTrack()
    for time, velocity in ((0, 100), (480, 90), (480, 0), (0, 80), (960, 0)):
        track.append(mido.Message("note_on", channel=9, note=40, velocity=velocity, time=time))
    track.append(mido.Message("note_on", channel=9, note=41, velocity=100))  # for ever
    track.append(mido.Message("control_change", channel=9, control=7, value=90, time=480))
    file = mido.MidiFile(ticks_per_beat=480)
    file.tracks.append(track)
    file.save(tmp_path / "again.mid")
    assert render("again.mid", "--fonts", render.font, "--allow-missing", "-o", "out") == (0, "")
    notes = read_score(tmp_path / "out/audio/again-0/score.tsv")["drums"].tolist()
    assert notes == [[0.0, 0.5, 40.0], [0.5, 1.0, 40.0], [1.0, 2.0, 40.0], [2.0, 2.5, 41.0]]


def test_versions_vary_alike_in_whatever_company(render, tmp_path):
    one, two = (song(tmp_path / f"{name}.mid", BAND) for name in ("one", "two"))
    words = ("--fonts", render.font, "--drum-fonts", sound_font(tmp_path / "kit.sf2", [(0, 0)], 48))
    assert render(one, *words, "--versions", 2, "--vary", "-o", "a") == (0, "")
    assert render(two, one, *words, "--versions", 2, "--vary", "-o", "b") == (0, "")
    first, second = (signals(tmp_path / f"a/audio/one-{i}") for i in range(2))
    again = signals(tmp_path / "b/audio/one-1")
    assert all((second[name] == again[name]).all() for name in second)
    assert len(first["mixture"]) != len(second["mixture"])  # the tempo
    assert len(DataDir.read(tmp_path / "b").recordings) == 4


def test_fonts_of_drums_alone_play_what_they_can(render, tmp_path):
    words = ("--fonts", render.font, "--drum-fonts", sound_font(tmp_path / "kit.sf2", [(0, 0)], 48))
    for name, notes, fonts in (("kit", BAND[:3], {"kit", "general"}), ("taiko", BAND, {"general"})):
        assert render(song(tmp_path / f"{name}.mid", notes), *words, "--versions", 8, "-o", name) == (0, "")
        assert set(re.findall(r"drums by (\w+)", render.said)) == fonts
        assert set(re.findall(r"bass by (\w+)", render.said)) == {"general"}


def test_a_stretch_begins_with_a_note(render, tmp_path):
    late = song(tmp_path / "late.mid", [*BAND[:1] * 4, *BAND])
    words = ("--fonts", render.font, "--seconds", 1.2, "--versions", 3)
    assert render(late, *words, "-o", "out") == (0, "")
    for version in range(3):
        x = signals(tmp_path / f"out/audio/late-{version}")["mixture"]
        assert 1.2 + 3 - 0.5 <= len(x) / RATE <= 1.2 + 3  # the last event, and the tail
        assert heard(x)[:2] == [0, 1]


def test_what_a_song_lacks(render, tmp_path):
    song(tmp_path / "in/duo.mid", BAND[1:3])
    song(tmp_path / "in/whole.mid", BAND)
    code, error = render("in", "--fonts", render.font, "-o", "out")
    assert code == 1
    assert "duo.mid: has no drums; see --allow-missing" in error
    assert DataDir.read(tmp_path / "out").recordings == ["whole-0"]
    assert render("in", "--fonts", render.font, "--allow-missing", "-o", "more") == (0, "")
    assert not signals(tmp_path / "more/audio/duo-0")["drums"].any()


def test_faults_of_songs(render, tmp_path):
    whole = song(tmp_path / "whole.mid", BAND)
    (tmp_path / "cut.mid").write_bytes(whole.read_bytes()[:60])
    (tmp_path / "noise.mid").write_bytes(b"RIFF" * 20)
    song(tmp_path / "empty.mid", [])
    names = {"cut": "not a MIDI file", "noise": "not a MIDI file", "empty": "no notes", "none": "not a MIDI"}
    paths = [f"{name}.mid" for name in names]
    code, error = render(*paths, whole, "--fonts", render.font, "-o", "out")
    assert code == 1
    lines = error.splitlines()
    assert len(lines) == len(names)
    for line, (name, words) in zip(lines, names.items(), strict=True):
        assert line.startswith(f"{name}.mid: ")
        assert words in line
    assert DataDir.read(tmp_path / "out").recordings == ["whole-0"]
    code, error = render(*paths, "--fonts", render.font, "-o", "none")
    assert (code, "not one of its files can be used" in error) == (1, True)


def test_faults_of_fonts(render, tmp_path):
    whole = song(tmp_path / "whole.mid", BAND[:3])
    kit = sound_font(tmp_path / "kit.sf2", [(0, 0)])
    code, error = render(whole, "--fonts", kit, "-o", "out")
    assert (code, "kit.sf2: has no instrument like program 33" in error) == (1, True)
    (tmp_path / "bad.sf2").write_bytes(b"RIFF" * 20)
    for name in ("bad.sf2", "nowhere.sf2"):
        code, error = render(whole, "--fonts", name, "-o", "out")
        assert (code, f"{name}: not a sound font" in error) == (1, True)
    (tmp_path / "songs").mkdir()
    code, error = render("songs", "--fonts", render.font, "-o", "out")
    assert (code, "no MIDI files" in error) == (1, True)
    assert not (tmp_path / "out/wav.scp").exists()
