"""audiomask attack: files of any format there and back, by a spec and a seed."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import read
from audiomask.data.simulate import attacks


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wav(path, samples=12000, rate=16000, channels=1, seed=0, **how):
    x = 0.1 * np.random.default_rng(seed).standard_normal((samples, channels))
    sf.write(path, x, rate, **how)
    return x.T.astype(np.float32)


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("a.wav", 16000, 1),
        ("a.flac", 44100, 2),
        ("a.ogg", 22050, 1),
        ("a.m4a", 48000, 2),
        ("a.wav", 11025, 3),
    ],
)
def test_any_format_rate_and_channels(cli, here, name, rate, channels):
    if name.endswith("m4a"):
        wav("source.wav", rate // 2, rate, channels)
        assert cli("enhance", "source.wav", "-o", name, "--dry", "1").code == 0
    else:
        wav(name, rate // 2, rate, channels)
    spec = "quantise:10+lowpass:3000" + "+opus:48" * (channels < 3)
    done = cli("attack", name, "--kind", spec, "-o", f"out{name[1:]}")
    assert done.code == 0, done.err
    (x, given), (y, made) = read(name), read(f"out{name[1:]}")
    assert (y.shape, made) == (x.shape, given)
    assert np.corrcoef(x[0], y[0])[0, 1] > 0.1
    assert not np.allclose(x, y, atol=1e-3)


def test_folders_seeds_and_json(cli, here):
    (here / "in/deep").mkdir(parents=True)
    for name in ("one.wav", "deep/two.flac"):
        wav(here / "in" / name)
    lines = []
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        done = cli(
            "attack", "in", "-k", "crop:0.25..0.5+white", "-o", f"{out}/", "--seed", seed, "--json", "-q"
        )
        assert (done.code, done.err) == (0, "")
        lines.append([json.loads(line) for line in done.out.splitlines()])
    first, again, other = ({f["file"]: f for f in facts} for facts in lines)
    assert set(first) == {"in/one.wav", "in/deep/two.flac"}
    for name, facts in first.items():
        assert set(facts) == {"file", "output", "attack", "seed", "begin", "speed", "other"}
        assert facts["output"] == name.replace("in/", "a/", 1)
        assert facts["begin"] == again[name]["begin"] != other[name]["begin"]
        (x, rate), (y, _) = read(name), read(facts["output"])
        at = round(facts["begin"] * rate)
        assert np.corrcoef(x[0, at : at + y.shape[1]], y[0])[0, 1] > 0.99
        assert np.array_equal(y, read(again[name]["output"])[0])
    assert first["in/one.wav"]["begin"] != first["in/deep/two.flac"]["begin"]  # each has its own


def test_what_is_said_of_a_splice(cli, here):
    wav("a.wav")
    wav("b.wav", seed=1)
    done = cli("attack", "a.wav", "-k", "splice:0.25:b.wav", "-o", "out.wav")
    assert done.code == 0
    assert "a.wav: begins at 0.000000 s of it; other sound from 0." in done.err
    assert "a.wav: begins" not in cli("attack", "a.wav", "-k", "polarity", "-o", "p.wav").err


def test_standard_input_and_output(cli, here, monkeypatch):
    wav("a.wav")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=(here / "a.wav").open("rb")))
    done = cli("attack", "-", "-k", "polarity", "-o", "back.wav")
    assert done.code == 0, done.err
    assert np.allclose(read("back.wav")[0], -read("a.wav")[0], atol=1e-4)
    assert cli("attack", "a.wav", "-k", "polarity", "-o", "-", "--json").code == 2


def test_beside_the_input_and_other_rates_and_formats(cli, here):
    wav("a.wav")
    assert cli("attack", "a.wav", "-k", "speed:0.5").code == 0
    assert sf.info("a_attacked.wav").frames == 24000
    assert cli("attack", "a.wav", "-k", "mono", "--rate", 8000, "--format", "flac", "-o", "o/").code == 0
    info = sf.info("o/a.flac")
    assert (info.frames, info.samplerate) == (6000, 8000)
    assert "exists" in cli("attack", "a.wav", "-k", "speed:0.5").err


def test_errors(cli, here):
    wav("a.wav")
    wav("b.wav", channels=3)
    (here / "bad.wav").write_bytes(b"no sound")
    for spec, message in (
        ("opsu", "--kind opsu: is no attack"),
        ("opus:x", "--kind opus:x: KBPS 'x' is no num"),
    ):
        done = cli("attack", "a.wav", "--kind", spec, "-o", "out.wav")
        assert done.code == 2
        assert message in done.err
    assert cli("attack", "a.wav", "-o", "out.wav").code == 2
    done = cli("attack", "a.wav", "b.wav", "bad.wav", "none.wav", "-k", "opus", "-o", "o/")
    assert done.code == 1
    assert "3 of 4 failed" in done.err
    assert "error: b.wav: opus: takes one or two channels, not 3" in done.err
    assert "error: bad.wav: not audio" in done.err
    assert [path.name for path in (here / "o").iterdir()] == ["a.wav"]
    done = cli("attack", "a.wav", "-k", "crop:2", "-o", "out.wav")
    assert done.code == 1
    assert "error: a.wav: 2 s cannot be cut out of 0.75 s" in done.err
    done = cli("attack", "a.wav", "-k", "background:20:none.wav", "-o", "out.wav")
    assert done.code == 1
    assert "none.wav" in done.err
    assert not (here / "out.wav").exists()


def test_long_recordings(cli, here, monkeypatch):
    wav("a.wav", 3 * 16000)
    monkeypatch.setattr(attacks, "STRETCH_S", 1)
    monkeypatch.setattr(attacks, "MOST", 20000)
    assert cli("attack", "a.wav", "-k", "lowpass+white+mp3+gist", "-o", "out.wav").code == 0
    assert sf.info("out.wav").frames == 3 * 16000
    done = cli("attack", "a.wav", "-k", "noise", "-o", "no.wav")
    assert done.code == 1
    assert "a.wav: noise:20: needs the whole recording at once, and takes 20000 samples" in done.err
    assert not (here / "no.wav").exists()


def test_the_list_names_every_kind(cli):
    done = cli("attack", "--list")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == [row[0] for row in attacks.rows()]


def test_a_lost_worker_begins_again(here):
    from audiomask.audio.sources import Source
    from audiomask.cli.attack import Attacked
    from audiomask.runtime.files.batch import Job
    from audiomask.runtime.files.play import Options

    job = Job(Source("a.wav", "a.wav"), {"attacked": here / "out.wav"})
    for overwrite in (True, False):
        (here / "out.wav").write_bytes(b"of the lost one, or older")
        assert Attacked("polarity", 0, Options(overwrite=overwrite)).finished(job) is None
        assert (here / "out.wav").exists() == overwrite
