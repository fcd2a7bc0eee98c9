"""What enhance and stream make of models of several sounds, other rates, codes, bits and probabilities."""

import json
import subprocess
import sys
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import small_artifacts
import soundfile as sf
from small_artifacts import GAINS, HOP, PLAIN, means

from audiomask.audio import AudioError, Writer, read
from audiomask.audio.sources import Source
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.files.batch import Job
from audiomask.runtime.files.play import Enhance, Options
from audiomask.runtime.session import Session


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ported")
    return {name: small_artifacts.build(folder, name, PLAIN) for name in PLAIN}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wav(path, channels=1, samples=10 * HOP + 7, rate=16000, seed=0):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed).uniform(-0.9, 0.9, (samples, channels)).astype(np.float32)
    sf.write(path, x, rate, subtype="FLOAT")
    return x.T


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("channels", [1, 2])
def test_every_stem_is_written(here, cli, models, channels):
    """The first was written alone, with exit code 0."""
    x = wav("a.wav", channels)
    done = cli("enhance", "a.wav", "-m", models["stems"], "-o", "out/")
    assert done.code == 0, done.err
    assert names(here / "out") == sorted(f"a_{name}.wav" for name in GAINS)
    for name, gain in GAINS.items():
        np.testing.assert_allclose(read(f"out/a_{name}.wav")[0], gain * x, atol=1e-6)
    assert cli("enhance", "a.wav", "-m", models["stems"], "--dry", "0.5").code == 0
    np.testing.assert_allclose(read("a_bass.wav")[0], -0.5 * x + 0.5 * x, atol=1e-6)


def test_one_stem_is_chosen(here, cli, models):
    x = wav("a.wav")
    assert cli("enhance", "a.wav", "-m", models["stems"], "-o", "b.wav", "--output", "drums").code == 0
    np.testing.assert_allclose(read("b.wav")[0], 0.25 * x, atol=1e-6)
    assert cli("enhance", "a.wav", "-m", models["stems"], "-o", "out", "--output", "drums").code == 0
    assert names(here / "out") == ["a.wav"]
    done = cli("enhance", "a.wav", "-m", models["stems"], "--output", "choir")
    assert (done.code, "has no output 'choir'; it has: vocals drums bass other" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a.wav", "-o", "b.wav"], "is one file, and the model makes vocals drums bass other"),
        (["a.wav", "-o", "-"], "is one file, and the model makes vocals drums bass other"),
        (["a.wav", "-o", "o/", "--filename", "{stem}.{ext}"], "all sounds of a.wav would become o/a.wav"),
        (["a.wav", "b/a.wav", "-o", "o/"], "a.wav and b/a.wav would both become o/a_vocals.wav"),
        (["a.wav", "a_drums.wav", "-f"], "would overwrite the input a_drums.wav"),
    ],
)
def test_collisions_are_refused(here, cli, models, words, text):
    for name in ("a.wav", "b/a.wav", "a_drums.wav"):
        wav(name)
    done = cli("enhance", *words, "-m", models["stems"])
    assert done.code == 2
    assert text in done.err
    assert names(here) == ["a.wav", "a_drums.wav", "b/a.wav"]


def test_all_files_of_a_job_appear_or_none(here, cli, models, monkeypatch):
    wav("a.wav")
    wav("out/a_other.wav")
    done = cli("enhance", "a.wav", "-m", models["stems"], "-o", "out")
    assert (done.code, "out/a_other.wav: exists already" in done.err) == (1, True)
    assert names(here / "out") == ["a_other.wav"]
    files = {name: here / f"{name}.wav" for name in GAINS}
    work = Enhance(resolve(models["stems"]), Options())

    def failing(step):
        whole = getattr(Writer, step)

        def method(self):
            if self.path.stem == "bass":
                raise AudioError("the disk is full")
            whole(self)

        return method

    for step in ("finish", "close"):
        with monkeypatch.context() as patch:
            patch.setattr(Writer, step, failing(step))
            with pytest.raises(AudioError, match="the disk is full"):
                work(Job(Source("a.wav", "a.wav"), files), lambda done, total: None)
        assert names(here) == ["a.wav", "out/a_other.wav"]


def test_lists_for_kaldi_of_every_stem(here, cli, models):
    wav("x.wav")
    Path("in.scp").write_text("utt2 x.wav\nutt1 x.wav\n")
    assert cli("enhance", "in.scp", "-m", models["stems"], "-o", "out").code == 0
    for name in GAINS:
        wanted = f"utt1 out/utt1_{name}.wav\nutt2 out/utt2_{name}.wav\n"
        assert Path(f"out/{name}.scp").read_text() == wanted
    assert not Path("out/wav.scp").exists()


def test_a_stereo_image_of_one_port(here, cli, models):
    x = wav("a.wav")
    assert cli("enhance", "a.wav", "-m", models["wide"], "-o", "b.wav").code == 0
    np.testing.assert_allclose(read("b.wav")[0], [x[0], -0.5 * x[0]], atol=1e-6)


def test_no_channel_of_a_stereo_image_is_dropped(models, noise):
    """The first alone came back for a block of one dimension."""
    x = noise(1, 1000)[0]
    session = Session(models["wide"])
    y = np.concatenate([session.feed(x), session.flush()], axis=1)
    np.testing.assert_allclose(y, [x, -0.5 * x], atol=1e-6)


def test_the_rate_that_an_upsampler_makes(here, cli, models):
    x = wav("a.wav")
    done = cli("enhance", "a.wav", "-m", models["triple"], "-o", "b.wav")
    assert done.code == 0
    assert "is left of" not in done.err
    y, rate = read("b.wav")
    assert rate == 48000
    np.testing.assert_allclose(y, np.repeat(x, 3, axis=1), atol=1e-6)
    assert cli("enhance", "a.wav", "-m", models["triple"], "-o", "c.wav", "--rate", "16000").code == 0
    assert (sf.info("c.wav").samplerate, sf.info("c.wav").frames) == (16000, x.shape[1])


@pytest.mark.parametrize(("channels", "rate"), [(1, 16000), (2, 16000), (1, 48000), (3, 44100)])
def test_codes_go_to_a_file_and_back(here, cli, models, channels, rate):
    x = wav("a.wav", channels, 5 * rate // 7, rate)
    done = cli("enhance", "a.wav", "-m", models["encoder"], "-o", "out/")
    assert done.code == 0, done.err
    with np.load("out/a.npz", allow_pickle=False) as file:
        facts = {key: file[key].tolist() for key in ("sample_rate", "frames", "model", "hash")}
        codes = file["codes"]
    assert facts == {
        "sample_rate": rate, "frames": x.shape[1], "model": "encoder", "hash": "hash-encoder"
    }  # fmt: skip
    frames = ceil(ceil(x.shape[1] * 16000 / rate) / HOP)
    assert (codes.shape, codes.dtype.kind) == ((2 * channels, frames), "i")
    done = cli("enhance", "out", "-m", models["decoder"], "-o", "back")
    assert done.code == 0, done.err
    y, got = read("back/a.wav")
    assert (got, y.shape) == (rate, x.shape)
    if rate == 16000:
        held = (codes[::2] * 256 + codes[1::2] - 32768) / 32767
        np.testing.assert_allclose(y, np.repeat(held, HOP, 1)[:, : x.shape[1]], atol=2**-15)
        np.testing.assert_allclose(held, means(x), atol=1e-4)


def broken(tmp_path):
    good = {"codes": np.zeros((2, 3), np.int64), "sample_rate": 16000, "frames": 480}
    cases = {
        "levels": good | {"codes": np.full((2, 3), 256)}, "negative": good | {"codes": np.full((2, 3), -1)},
        "rows": good | {"codes": np.zeros((3, 3), int)}, "floats": good | {"codes": np.zeros((2, 3))},
        "empty": good | {"codes": np.zeros((2, 0), int)}, "rate": good | {"sample_rate": 7},
        "names": good | {"other": np.zeros((2, 3), int), "more": np.zeros((2, 3), int)},
        "pickle": good | {"codes": np.array([["x", None]], object)},
    }  # fmt: skip
    del cases["names"]["codes"]
    for name, arrays in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "text.npz").write_text("no codes in here")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "rows.npz").read_bytes()[:300])
    return [*cases, "text", "cut"]


def test_what_is_no_file_of_codes_is_told(here, cli, models):
    bad = broken(here)
    wav("a.wav")
    files = [f"{name}.npz" for name in bad]
    done = cli("enhance", *files, "a.wav", "none.npz", "-m", models["decoder"], "-o", "out")
    assert done.code == 1
    for name in (*files, "a.wav"):
        assert f"error: {name}: is no .npz of codes" in done.err, name
    assert "none.npz: no such file" in done.err
    assert names(here / "out") == []
    np.savez("good.npz", codes=np.zeros((2, 3), int), sample_rate=16000, frames=480)
    done = cli("enhance", "good.npz", "-m", models["stems"])
    assert (done.code, "not audio that libsndfile" in done.err) == (1, True)


def test_more_than_memory_is_not_unpacked(here, cli, models, monkeypatch):
    np.savez_compressed("good.npz", codes=np.zeros((2, 3000), int), sample_rate=16000, frames=480000)
    monkeypatch.setattr("audiomask.runtime.files.sinks.MAX_BYTES", 2**14)
    done = cli("enhance", "good.npz", "-m", models["decoder"], "-o", "out")
    assert "good.npz: is no .npz of codes (it holds more than" in done.err


def test_probabilities_and_bits(here, cli, models):
    x = wav("a.wav", 2)
    assert cli("enhance", "a.wav", "-m", models["detector"], "-o", "out/").code == 0
    assert names(here / "out") == ["a.jsonl", "a.npz"]
    lines = [json.loads(line) for line in Path("out/a.jsonl").read_text().splitlines()]
    above = means(x) > 0
    assert len(lines) == 2 * above.shape[1]
    last = x.shape[1] / 16000
    assert lines[0] == {
        "start": 0,
        "end": 0.01,
        "channel": 0,
        "present": {"yes": above[0, 0], "no": not above[0, 0]},
    }
    assert (lines[-1]["start"], lines[-1]["end"]) == (0.1, round(last, 4))
    assert [line["present"]["yes"] for line in lines] == above.T.ravel().tolist()
    np.testing.assert_array_equal(np.load("out/a.npz")["bits"], np.repeat(above, 3, axis=0))
    done = cli(
        "enhance", "a.wav", "-m", models["detector"], "-o", "b.npz", "--output", "bits", "--dry", "0.5"
    )
    assert (done.code, "the untouched sound cannot be mixed in" in done.err) == (1, True)
    assert cli("enhance", "a.wav", "-m", models["detector"], "-o", "b.npz", "--output", "bits").code == 0
    assert np.load("b.npz")["bits"].shape == (6, above.shape[1])


def test_inputs_that_no_file_gives_are_named(here, cli, models):
    """Zeros in their place would be a wrong answer without a word."""
    wav("a.wav")
    done = cli("enhance", "a.wav", "-m", models["marker"])
    assert (done.code, "marker: needs bits beside the sound" in done.err) == (1, True)
    code, out, err = pipe(b"", "-m", models["marker"])
    assert (code, out, "marker: needs bits beside audio, and a pipe has one" in err) == (2, b"", True)


# --- pipes --------------------------------------------------------------------------------------------------


def pipe(data, *words):
    command = [sys.executable, "-m", "audiomask", "stream", "--format", "f32le", *map(str, words)]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr.decode()


def test_a_pipe_of_an_upsampler_says_its_rate(models, noise):
    x = noise(1, 5000)
    code, out, err = pipe(x.tobytes(), "-m", models["triple"])
    assert code == 0, err
    assert "triple, 16000 Hz to 48000, 1 channels, f32le" in err
    np.testing.assert_allclose(np.frombuffer(out, "<f4"), np.repeat(x[0], 3), atol=1e-6)


def test_pipes_of_codes(models, noise):
    x = noise(1, 10 * HOP)
    code, out, err = pipe(x.tobytes(), "-m", models["encoder"], "--block", "3")
    assert code == 0, err
    assert "encoder, 16000 Hz, 1 channels, f32le to codes, 2 x int32, 100 a second; latency 10.0 ms" in err
    codes = np.frombuffer(out, "<i4").reshape(-1, 2)
    np.testing.assert_allclose((codes @ [256, 1] - 32768) / 32767, means(x[0]), atol=1e-4)
    code, out, err = pipe(out[:-3], "-m", models["decoder"])
    assert code == 0, err
    assert "codes, 2 x int32, 100 a second to 16000 Hz, 1 channels, f32le" in err
    assert "the last 5 bytes were no whole frame" in err
    np.testing.assert_allclose(np.frombuffer(out, "<f4"), np.repeat(means(x[0])[:-1], HOP), atol=1e-4)
    code, _, err = pipe(b"", "-m", models["decoder"], "--dry", "0.5")
    assert (code, "--dry: decoder makes no sound of sound" in err) == (2, True)


def test_a_pipe_of_several_sounds_asks_for_one(models, noise):
    """The first was played, with exit code 0."""
    x = noise(1, 1000)
    code, out, err = pipe(x.tobytes(), "-m", models["stems"])
    assert (code, out) == (2, b"")
    assert "stems: makes vocals drums bass other; choose one with --output" in err
    code, out, err = pipe(x.tobytes(), "-m", models["stems"], "--output", "bass")
    assert code == 0, err
    np.testing.assert_allclose(np.frombuffer(out, "<f4"), -x[0], atol=1e-6)
    code, _, err = pipe(b"", "-m", models["stems"], "--output", "choir")
    assert (code, "--output choir: stems has vocals drums bass other" in err) == (2, True)
    code, out, err = pipe(x.tobytes(), "-m", models["detector"], "--output", "present")
    assert (code, np.frombuffer(out, "<f4").shape) == (0, (2 * 7,))


@pytest.fixture(scope="module")
def cinema(tmp_path_factory):
    return small_artifacts.build(tmp_path_factory.mktemp("cinema"), "cinema", task="separate")


@pytest.mark.parametrize(("channels", "rate"), [(2, 44100), (1, 16000)])
def test_a_pipe_with_stems_turned(cinema, noise, channels, rate):
    x = noise(channels, 5000)
    how = ["--rate", str(rate), "--channels", str(channels)]
    code, out, err = pipe(x.T.tobytes(), "-m", cinema, "--gains", "speech=-20,music=3", *how)
    assert code == 0, err
    session = Session(cinema, sample_rate=rate, channels=channels, gains={"speech": -20, "music": 3})
    y = np.concatenate([np.atleast_2d(part) for part in (session.feed(x), session.flush())], 1)
    np.testing.assert_allclose(np.frombuffer(out, "<f4").reshape(-1, channels).T, y, atol=1e-5)
    code, _, err = pipe(b"", "-m", cinema, "--gains", "choir=1")
    assert (code, "no model makes choir; there are cinema: speech music effects" in err) == (1, True)
    code, _, err = pipe(b"", "-m", cinema, "--gains", "speech=1", "--output", "music")
    assert (code, "--output music: is one sound by itself; leave it out, or --gains" in err) == (2, True)
