"""Songs have drums, a bass and a melody, are the same for a seed, and held styles are not trained on."""

import importlib
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/corpora/accompany.py"
mido = pytest.importorskip("mido")

# Stands for MMA: plays each bar's chord number on drums, bass and one more channel.
MMA = f"""#!{sys.executable}
import sys
import mido

source, _, target = sys.argv[1:]
text = open(source).read()
if "Groove Bad" in text:
    sys.exit("ERROR: a groove that no one knows")
track = mido.MidiTrack([mido.Message("program_change", channel=c, program=p) for c, p in ((14, 33), (0, 0))])
for channel, note in ((9, 36), (14, 40), (0, 60)):
    if channel != 14 or "Groove Hollow" not in text:
        track.append(mido.Message("note_on", channel=channel, note=note, velocity=90))
        track.append(mido.Message("note_off", channel=channel, note=note, time=480 * 16))
song = mido.MidiFile()
song.tracks.append(track)
song.save(target)
"""


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    tool = importlib.import_module(TOOL.stem)
    program, library = tmp_path / "mma", tmp_path / "lib"
    program.write_text(MMA)
    program.chmod(0o755)
    library.mkdir()

    def run(styles, *more, mma=program, to="out"):
        for path in library.iterdir():
            path.unlink()
        for name, grooves in styles.items():
            lines = "".join(f"DefGroove {groove}\n" for groove in grooves)
            (library / name).write_text(lines)
        out = tmp_path / to
        given = ["-o", out, "--mma", mma, "--library", library, *more]
        monkeypatch.setattr(sys, "argv", [TOOL.name, *map(str, given)])
        code = tool.main()
        return code, {str(p.relative_to(out)): p for p in sorted(out.rglob("*.mid"))}, capsys.readouterr()

    run.tool = tool
    return run


def some(made, count, held):
    """Return so many styles' names that are held out, or not."""
    names = (f"style{n}.mma" for n in range(1000))
    return [name for name in names if made.tool.held(name, 3) == held][:count]


def test_songs_and_what_is_held_out(made):
    kept, rest = some(made, 2, held=False), some(made, 1, held=True)
    styles = {name: ["Good", "GoodIntro"] for name in kept + rest}
    code, songs, said = made(styles, "--songs", 6, "--held", 3)
    assert code == 0, said.err
    assert list(songs) == [
        "train/song0000.mid", "train/song0001.mid", "train/song0003.mid", "train/song0004.mid",
        "valid/song0002.mid", "valid/song0005.mid",
    ]  # fmt: skip
    for line in said.out.splitlines():
        assert line.split(": ")[1] in (rest if "/valid/" in line else kept)
    channels = {m.channel for m in mido.MidiFile(songs["train/song0000.mid"]) if m.type == "note_on"}
    assert channels == {0, 1, 9, 14}  # the melody takes a free channel
    code, again, _ = made(styles, "--songs", 3, "--held", 3, to="again")
    assert (code, len(again)) == (0, 3)
    assert all(path.read_bytes() == songs[name].read_bytes() for name, path in again.items())
    code, same, said = made(styles, "--songs", 3, "--seed", 1)
    assert (code, same) == (1, songs)
    assert "holds songs; choose another OUT" in said.err


def test_grooves_that_are_refused_or_lack_a_stem_are_drawn_anew(made):
    name, other, bad, hollow = some(made, 4, held=False)
    styles = {name: ["Good"], other: ["Good"], bad: ["Bad"], hollow: ["Hollow"]}
    code, songs, said = made(styles, "--songs", 4, "--held", 9)
    assert code == 0
    assert len(songs) == 4
    assert not {bad, hollow} & {line.split(": ")[1] for line in said.out.splitlines()}


def test_faults_are_named(made, tmp_path):
    assert "install Debian's mma" in made({}, mma=tmp_path / "no")[2].err
    assert "no grooves of MMA below it" in made({"a.mma": ["OnlyIntro"]})[2].err
    code, songs, said = made({some(made, 1, held=False)[0]: ["Bad"]}, "--songs", 1)
    assert (code, songs) == (1, {})
    assert "a groove that no one knows" in said.err
