"""The corpus collector finds folders by checksums, loads packages once, joins, strews, sums, splits."""

import hashlib
import runpy
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml

from audiomask.data.kaldi.directory import DataDir

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools/get_training_corpus.py"))
main, names = TOOL["main"], TOOL["main"].__globals__
RATE = 16000


def put(path, seconds=0.5, channels=1, seed=0, scale=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = scale * np.random.default_rng(seed).standard_normal((int(seconds * RATE), channels))
    sf.write(path, x, RATE)
    return x


@pytest.fixture
def have(tmp_path):
    """Folders under names of the owner's: words of three voices, a song in two stems."""
    folder = tmp_path / "mine/else"
    for n in range(40):
        put(folder / f"voices/{'abc'[n % 3]}/w{n}.wav", 0.8, seed=n)
    put(folder / "songs/one/drums.flac", 2, 2, 100, 0.5)
    put(folder / "songs/one/bass.flac", 1.5, 1, 101, 0.5)
    put(folder / "songs/one/vocals.flac", 2, 2, 102)
    (folder / "voices/a/readme.txt").write_text("no sound")
    return folder


@pytest.fixture
def sources(tmp_path, have, monkeypatch):
    """The list of sources, and how often a package was loaded."""

    def digest(path):
        return hashlib.sha256((have / path).read_bytes()).hexdigest()[:16]

    entries = yaml.safe_load("""
        - {name: voices, kind: speech, files: ["*.wav"], how: joined, leave: [c], valid: [b]}
        - {name: songs, kind: music, files: ["*/drums.flac", "*/bass.flac"], how: summed, valid: []}
        - {name: shots, kind: effects, package: shots-data, root: usr/share, files: ["*.ogg"], how: scattered,
           group: (hit|step), valid: [step]}
        - {name: inside, kind: effects, package: zip-data, archive: usr/a.zip, files: ["audio/*"], valid: []}
        - {name: far, kind: speech, files: ["*"], marker: {x.wav: none}, source: "https://far.example"}
    """)
    entries[0]["marker"] = {"a/w0.wav": digest("voices/a/w0.wav")}
    entries[1]["marker"] = {"one/drums.flac": digest("songs/one/drums.flac")}
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump([{"licence": "CC0", **entry} for entry in entries]))
    loaded = []

    def run(command, folder):
        if command[0] == "apt-get":
            loaded.append(command[2])
            (folder / f"{command[2]}_1_all.deb").touch()
        elif "shots" in command[2]:
            for n in range(6):
                put(folder / f"usr/share/x/{'hit' if n % 2 else 'step'}{n}.ogg", 0.3, 2, n)
            put(folder / "usr/share/x/hit_long.ogg", 9, 2, 9)
        else:
            put(folder / "rain.ogg", 2, 2, 3)
            (folder / "usr").mkdir()
            with zipfile.ZipFile(folder / "usr/a.zip", "w") as archive:
                archive.write(folder / "rain.ogg", "audio/rain.ogg")
                archive.writestr("art/picture.png", "x")

    monkeypatch.setitem(names, "SOURCES", path)
    monkeypatch.setitem(names, "run", run)
    return loaded


def start(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["get_training_corpus.py", *map(str, words)])
    return main()


def test_all_kinds_are_collected_and_nothing_is_made_twice(tmp_path, have, sources, monkeypatch, capsys):
    out = tmp_path / "out"
    assert start(monkeypatch, out, "--have", have.parent) == 0
    assert "missing: far (speech, CC0): https://far.example" in capsys.readouterr().err
    assert sources == ["shots-data", "zip-data"]
    speech = {part: DataDir.read(out / part / "speech") for part in ("train", "valid")}
    assert (speech["train"].speakers, speech["valid"].speakers) == (["voices_a"], ["voices_b"])
    for data in speech.values():
        for u in data.utterances():
            x, rate = data.load(u)
            assert (len(x), rate) == (1, 48000)
            assert 0.8 < x.shape[1] / rate < 12.5
            assert np.abs(x).max() <= 0.9 + 1e-4
    music = DataDir.read(out / "train/music")
    (u,) = music.utterances()
    drums, bass = (sf.read(have / f"songs/one/{stem}.flac")[0] for stem in ("drums", "bass"))
    x, rate = music.load(u)
    want = drums[:, 0]
    want[: len(bass)] += bass
    assert rate == 48000
    assert abs(np.corrcoef(x[0, ::3][: len(want)], want)[0, 1]) > 0.95
    effects = DataDir.read(out / "train/effects")
    assert effects.speakers == ["inside_audio", "shots_hit"]
    assert any(str(path).endswith("hit_long.ogg") for path in effects.tables["wav.scp"].values())
    assert DataDir.read(out / "valid/effects").speakers == ["shots_step"]
    assert not (out / "valid/music").exists()
    rows = [line.split("\t") for line in (out / "sources.tsv").read_text().splitlines()]
    assert ["train", "effects", "inside", "1", "0.00", "CC0", "Debian zip-data"] in rows
    before = {path: path.stat().st_mtime_ns for path in (out / "made").rglob("*.flac")}
    assert start(monkeypatch, out, "--have", have) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (out / "made").rglob("*.flac")}
    assert sources == ["shots-data", "zip-data"]


def test_another_run_makes_the_same_files(tmp_path, have, sources, monkeypatch):
    for name in ("one", "two"):
        assert start(monkeypatch, tmp_path / name, "--have", have, "--only", "voices", "shots") == 0
    made = [
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n / "made").rglob("*.flac")}
        for n in ("one", "two")
    ]
    assert made[0] == made[1] != {}


def test_what_fails_is_named_and_the_rest_collected(tmp_path, have, sources, monkeypatch, capsys):
    def run(command, folder):
        raise names["Failure"]("apt-get download: no such package")

    monkeypatch.setitem(names, "run", run)
    assert start(monkeypatch, tmp_path / "out", "--have", have) == 1
    assert "failed: shots: apt-get download: no such package" in capsys.readouterr().err
    assert DataDir.read(tmp_path / "out/train/speech").speakers == ["voices_a"]
    assert not [*(tmp_path / "out/packages").glob("*")]


def test_a_cut_in_between_is_made_good(tmp_path, have, sources, monkeypatch):
    out = tmp_path / "out"
    assert start(monkeypatch, out, "--have", have, "--only", "voices") == 0
    folder = out / "made/voices_a"
    want = {path.name: path.read_bytes() for path in folder.glob("*.flac")}
    (folder / ".done").unlink()
    (folder / "0000.flac").write_bytes(b"half")
    (folder / "0099.flac").write_bytes(b"of another run")
    assert start(monkeypatch, out, "--have", have, "--only", "voices") == 0
    assert want == {path.name: path.read_bytes() for path in folder.glob("*.flac")}


def test_wrong_words_are_refused(tmp_path, sources, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path, "--only", "choir")
    assert "no such source; there are voices songs" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"nowhere: no such folder"):
        start(monkeypatch, tmp_path, "--have", tmp_path / "nowhere")
    assert start(monkeypatch, tmp_path / "none", "--only", "far") == 1
    assert start(monkeypatch, tmp_path, "--list") == 0
    assert "shots-data" in capsys.readouterr().out


def test_the_list_is_whole():
    entries = TOOL["read_sources"](TOOL["SOURCES"])
    assert len({entry.name for entry in entries}) == len(entries) > 25
    for entry in entries:
        assert entry.kind in TOOL["KINDS"], entry.name
        assert entry.package or (entry.marker and entry.source), entry.name
        assert entry.how in ("whole", "joined", "scattered", "summed"), entry.name


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get")
def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(names["Failure"], match="apt-get download"):
        TOOL["run"](["apt-get", "download", "no-such-package-as-this"], tmp_path)
    with pytest.raises(names["Failure"], match="packages need Debian"):
        TOOL["run"](["no-such-command"], tmp_path)
