"""audiomask separate: stems like the input, exact sums, remixes, pipes, lists, layouts, errors."""

import pickle
import subprocess
import sys
from functools import partial
from math import inf
from pathlib import Path

import numpy as np
import pytest
import small_artifacts
import soundfile as sf

from audiomask.audio import AudioError, Writer, read
from audiomask.audio.layout import mask_of
from audiomask.runtime import catalogue
from audiomask.runtime.files.play import Options
from audiomask.runtime.files.separated import SILENT, WINDOW, Separate, Wanted, shared
from audiomask.runtime.session import Session

FILM = list(small_artifacts.FILM)
BAND = [*small_artifacts.STEMS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("separators")
    for name, default in (("cinema", True), ("stems", False)):
        small_artifacts.build(folder, name, task="separate", default=default)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, models):
    """A folder to work in, where `cinema` and `stems` are the models that ship."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "PRETRAINED", models)
    return tmp_path


def wav(path, channels=2, samples=20000, rate=16000, subtype="FLOAT", mask=0):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)
    with Writer(path, rate, channels, subtype=subtype, mask=mask, overwrite=True) as writer:
        writer.write(x)
    return read(path)[0]


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def sounds(folder):
    return {path.stem: read(path)[0] for path in Path(folder).iterdir()}


@pytest.mark.parametrize(
    ("path", "rate", "channels", "subtype"),
    [
        ("a.wav", 16000, 2, "FLOAT"),
        ("a.wav", 44100, 1, "PCM_16"),
        ("a.flac", 48000, 2, "PCM_24"),
        ("a.wav", 96000, 2, "PCM_16"),
        ("a.wav", 8000, 2, "PCM_16"),
        ("a.wav", 22050, 1, "FLOAT"),
    ],
)
def test_stems_are_like_the_input(here, cli, path, rate, channels, subtype):
    x = wav(path, channels, 12345, rate, subtype)
    done = cli("separate", path, "-o", "out")
    assert done.code == 0, done.err
    assert names("out") == sorted(f"a/{name}{Path(path).suffix}" for name in FILM)
    before = sf.info(path)
    session = Session(catalogue.resolve("cinema")[0], sample_rate=rate, channels=channels)
    parts = [session.feed(x), session.flush()]
    for name in FILM:
        after = sf.info(f"out/a/{name}{Path(path).suffix}")
        for what in ("samplerate", "channels", "frames", "format", "subtype"):
            assert getattr(after, what) == getattr(before, what)
        want = np.concatenate([np.atleast_2d(part[name]) for part in parts], 1)
        np.testing.assert_allclose(read(after.name)[0], want, atol=1e-5 if subtype == "FLOAT" else 2e-5)


def test_some_stems_choose_their_model(here, cli):
    x = wav("a.wav")
    done = cli("separate", "a.wav", "-o", "out", "--stems", "vocals, drums")
    assert done.code == 0, done.err
    assert "model stems: 1" in done.err
    assert names("out") == ["a/drums.wav", "a/vocals.wav"]
    np.testing.assert_allclose(read("out/a/drums.wav")[0], 0.25 * x + x**2, atol=1e-6)
    assert cli("separate", "a.wav", "--stems", "music", "-o", "one.wav").code == 0
    np.testing.assert_allclose(read("one.wav")[0], x / 2, atol=1e-6)
    assert cli("separate", "a.wav").code == 0
    assert names("a") == sorted(f"{name}.wav" for name in FILM)


def test_two_stems_are_the_input(here, cli):
    x = wav("a.wav")
    assert cli("separate", "a.wav", "-o", "out", "--two-stems", "bass").code == 0
    found = sounds("out/a")
    assert sorted(found) == ["bass", "no_bass"]
    np.testing.assert_allclose(found["bass"], -0.5 * x + 0.5 * x**2, atol=1e-6)
    np.testing.assert_allclose(found["bass"] + found["no_bass"], x, atol=1e-6)


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("words", [["--exact"], ["--exact", "shared"], ["--exact", "residual"]])
@pytest.mark.parametrize(
    ("path", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("a.wav", "DOUBLE")]
)
def test_exact_stems_sum_to_the_input(here, cli, words, path, subtype, rate):
    x = wav(path, 2, 12345, rate, subtype)
    done = cli("separate", path, "-o", "out", *words)
    assert done.code == 0, done.err
    assert "nothing above" not in done.err
    found = sounds("out/a")
    assert sorted(found) == sorted(FILM + ["residual"] * (words[-1] == "residual"))
    np.testing.assert_allclose(sum(found.values()), x, atol=1e-6)


def test_exact_sums_of_a_part(here, cli):
    """What is shared goes to stems that are not written too; a residual is of those that are."""
    x = wav("a.wav")
    for out, words in (
        ("whole", ["--exact"]),
        ("one", ["--stems", "music", "--exact"]),
        ("rest", ["--stems", "music", "--exact", "residual"]),
    ):
        assert cli("separate", "a.wav", "-o", out, *words).code == 0
    whole, one, rest = (sounds(f"{out}/a") for out in ("whole", "one", "rest"))
    assert (sorted(one), sorted(rest)) == (["music"], ["music", "residual"])
    np.testing.assert_allclose(rest["residual"] + rest["music"], x, atol=1e-6)
    np.testing.assert_array_equal(one["music"], whole["music"])
    assert not np.allclose(one["music"], rest["music"], atol=1e-3)


def test_exact_needs_a_format_that_holds_it(here, cli):
    wav("a.ogg", rate=44100, subtype="VORBIS")
    done = cli("separate", "a.ogg", "-o", "out", "--exact")
    assert done.code == 1
    assert "cannot hold sounds that sum to the input exactly; give --format wav" in done.err
    assert not names("out")
    assert cli("separate", "a.ogg", "-o", "out", "--exact", "--format", "wav").code == 0


@pytest.mark.parametrize("size", [100, 1024, 5000, 10**6])
def test_a_residual_is_shared_by_energy(noise, size):
    """Two stems of other frequencies get what lies there, whatever the blocks; what nobody has, all alike."""
    n, samples = np.arange(30000), 30000
    low, high = (np.sin(2 * np.pi * f * n / 16000).astype(np.float32)[None] for f in (250, 4000))
    rest = (0.3 * low + 0.2 * high).astype(np.float32)
    given = {"low": low, "rest": rest, "high": high}
    blocks = ({k: y[:, at : at + size] for k, y in given.items()} for at in range(0, samples, size))
    parts = [*shared(blocks, "rest")]
    low2, high2 = (np.concatenate([part[name] for part in parts], 1) for name in ("low", "high"))
    assert low2.shape == low.shape
    np.testing.assert_allclose(low2 + high2, low + high + rest, atol=1e-6)
    inner = slice(WINDOW, -WINDOW)
    np.testing.assert_allclose(low2[0, inner], 1.3 * low[0, inner], atol=1e-3)
    np.testing.assert_allclose(high2[0, inner], 1.2 * high[0, inner], atol=1e-3)
    silent = {"low": 0 * low, "rest": rest, "high": 0 * low}
    parts = [*shared([silent], "rest")]
    np.testing.assert_allclose(np.concatenate([part["low"] for part in parts], 1), rest / 2, atol=1e-6)
    assert SILENT > 0


def test_gains_make_one_file(here, cli):
    x = wav("a.wav")
    want = x + (10 ** (3 / 20) - 1) * (x / 2) - (x**2 / 4)
    assert cli("separate", "a.wav", "-o", "b.wav", "--gains", "music=3,effects=-inf").code == 0
    assert cli("separate", "a.wav", "--gains", "music=3", "--gains", "effects=-inf").code == 0
    assert cli("separate", "a.wav", "-o", "out/", "--gains", "effects=-inf,music=3").code == 0
    assert names(here) == ["a.wav", "a_remix.wav", "b.wav", "out/a.wav"]
    for path in ("b.wav", "a_remix.wav", "out/a.wav"):
        np.testing.assert_allclose(read(path)[0], want, atol=1e-6)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_gains_of_0_leave_the_file_as_it_is(here, cli, rate):
    x = wav("a.wav", 1, rate=rate, subtype="PCM_16")
    assert cli("separate", "a.wav", "-o", "b.wav", "--gains", "vocals=0").code == 0
    np.testing.assert_array_equal(read("b.wav")[0], x)


SURROUND = ["FL FR FC LFE BL BR", "FL FR FC LFE SL SR", "FL FR FC LFE BL BR SL SR"]


@pytest.mark.parametrize("names_of", SURROUND)
def test_surround_keeps_its_channels(here, cli, names_of):
    """Dialogue in the centre is found there, by itself; low frequency effects are effects."""
    speakers = names_of.split()
    x = wav("a.wav", len(speakers), mask=mask_of(names_of))
    assert sf.info("a.wav").format == "WAVEX"
    done = cli("separate", "a.wav", "-o", "out")
    assert done.code == 0, done.err
    found = sounds("out/a")
    centre, lfe = speakers.index("FC"), speakers.index("LFE")
    pairs = [[speakers.index(side + letter) for letter in "LR"] for side in "FBS" if f"{side}L" in speakers]
    np.testing.assert_allclose(found["speech"][centre], x[centre] - x[centre] ** 2, atol=1e-6)
    for pair in pairs:
        want = small_artifacts.REFERENCES["cinema"](x[pair])
        for name in FILM:
            np.testing.assert_allclose(found[name][pair], want[name], atol=1e-6)
    np.testing.assert_array_equal(found["effects"][lfe], x[lfe])
    assert not found["speech"][lfe].any()
    assert not found["music"][lfe].any()
    with sf.SoundFile("out/a/speech.wav") as file:
        assert file.channels == len(speakers)
    assert cli("separate", "a.wav", "-o", "exact", "--exact").code == 0
    np.testing.assert_allclose(sum(sounds("exact/a").values()), x, atol=1e-6)


def test_channels_without_names_are_pairs(here, cli):
    x = wav("a.wav", 5)
    assert cli("separate", "a.wav", "-o", "out").code == 0
    found = sounds("out/a")
    for pair in ([0, 1], [2, 3]):
        want = small_artifacts.REFERENCES["cinema"](x[pair])
        np.testing.assert_allclose(found["speech"][pair], want["speech"], atol=1e-6)
    np.testing.assert_allclose(found["speech"][4], x[4] - x[4] ** 2, atol=1e-6)


@pytest.mark.parametrize("words", [[], ["--exact"], ["--two-stems", "speech"]])
def test_silence_gives_silence(here, cli, words):
    sf.write("a.wav", np.zeros((20000, 2)), 44100)
    assert cli("separate", "a.wav", "-o", "out", *words).code == 0
    found = sounds("out/a")
    assert {y.shape for y in found.values()} == {(2, 20000)}
    assert not any(y.any() for y in found.values())


@pytest.mark.parametrize("samples", [1, 60, 500])
@pytest.mark.parametrize("rate", [16000, 96000])
def test_clips_shorter_than_a_hop_or_a_window(here, cli, samples, rate):
    x = wav("a.wav", 2, samples, rate)
    assert cli("separate", "a.wav", "-o", "out").code == 0
    assert {y.shape for y in sounds("out/a").values()} == {(2, samples)}
    assert cli("separate", "a.wav", "-o", "exact", "--exact").code == 0
    np.testing.assert_allclose(sum(sounds("exact/a").values()), x, atol=1e-6)


def test_lists_for_kaldi_of_every_stem(here, cli):
    wav("x.wav")
    Path("in.scp").write_text("utt2 x.wav\nutt1 x.wav\n")
    assert cli("separate", "in.scp", "-o", "out").code == 0
    for name in FILM:
        want = f"utt1 out/utt1/{name}.wav\nutt2 out/utt2/{name}.wav\n"
        assert Path(f"out/{name}.scp").read_text() == want
    assert cli("separate", "in.scp", "-o", "remix", "--gains", "music=-6").code == 0
    assert Path("remix/wav.scp").read_text() == "utt1 remix/utt1.wav\nutt2 remix/utt2.wav\n"


def test_folders_overwriting_and_jobs(here, cli):
    for name in ("in/one.wav", "in/deep/two.wav"):
        wav(name, samples=2000)
    assert cli("separate", "in", "-o", "out", "-j", "2", "--stems", "music,speech").code == 0
    made = ["deep/two/music.wav", "deep/two/speech.wav", "one/music.wav", "one/speech.wav"]
    assert names("out") == made
    done = cli("separate", "in", "-o", "out", "--stems", "music,speech")
    assert (done.code, "exists already" in done.err) == (1, True)
    assert cli("separate", "in", "-o", "out", "--stems", "music,speech", "-f").code == 0
    words = ["--filename", "{stem}-{source}.{ext}", "--format", "flac", "--subtype", "PCM_16"]
    assert cli("separate", "in/one.wav", "-o", "flat", *words).code == 0
    assert names("flat") == sorted(f"one-{name}.flac" for name in FILM)


@pytest.mark.parametrize("step", ["write", "finish", "close"])
def test_all_stems_of_a_file_appear_or_none(here, cli, monkeypatch, step):
    wav("a.wav")
    whole = getattr(Writer, step)

    def failing(self, *given):
        if self.path.stem == "music":
            raise AudioError("the disk is full")
        return whole(self, *given)

    monkeypatch.setattr(Writer, step, failing)
    done = cli("separate", "a.wav", "-o", "out")
    assert (done.code, "the disk is full" in done.err) == (1, True)
    assert not [*Path("out").iterdir()]  # nor a folder of nothing


def test_a_bad_file_does_not_stop_the_others(here, cli):
    wav("in/a.wav")
    Path("in/b.wav").write_text("no sound")
    done = cli("separate", "in", "-o", "out")
    assert (done.code, "1 of 2 failed" in done.err) == (1, True)
    assert [path.name for path in Path("out").iterdir()] == ["a"]


def test_files_through_pipes(here, models, monkeypatch):
    x = wav("a.wav")
    for words, want in (
        (["--gains", "music=-inf"], x / 2),
        (["--stems", "music"], x / 2),
        (["--gains", "effects=-inf", "-o", "-"], x - x**2 / 4),
    ):
        with Path("a.wav").open("rb") as file:
            command = [
                sys.executable,
                "-m",
                "audiomask",
                "separate",
                "-",
                "-m",
                models / "cinema.onnx",
                *words,
            ]
            done = subprocess.run(command, stdin=file, capture_output=True)
        assert done.returncode == 0, done.stderr
        Path("b.wav").write_bytes(done.stdout)
        np.testing.assert_allclose(read("b.wav")[0], want, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "rate", "words"),
    [
        (2, 44100, ["--gains", "speech=-20"]),
        (1, 16000, ["--stems", "speech"]),
        (3, 16000, ["--gains", "music=6"]),
    ],
)
def test_bare_samples(here, cli, models, channels, rate, words):
    x = wav("a.wav", channels, rate=rate)
    how = ["--raw", "f32le", "--rate", str(rate), "--channels", str(channels), "-m", models / "cinema.onnx"]
    command = [sys.executable, "-m", "audiomask", "separate", "-", *how, *words]
    done = subprocess.run(command, input=x.T.astype("<f4").tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert f"cinema, {rate} Hz, {channels} channels, f32le; latency 1" in done.stderr.decode()
    assert cli("separate", "a.wav", "-o", "b.wav", *words).code == 0
    y = np.frombuffer(done.stdout, "<f4").reshape(-1, channels).T
    np.testing.assert_allclose(y, read("b.wav")[0], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (
            ["--stems", "vocals,music"],
            1,
            "no model makes all of vocals, music; there are cinema: speech music",
        ),
        (
            ["--stems", "choir"],
            1,
            "no model makes choir; there are cinema: speech music effects; stems: vocals",
        ),
        (["--two-stems", "choir"], 1, "no model makes choir; there are cinema"),
        (["--gains", "choir=1"], 1, "no model makes choir; there are cinema"),
        (
            ["--stems", "bass", "-m", "cinema"],
            1,
            "no model makes bass; there are cinema: speech music effects",
        ),
        (["--gains", "music=99"], 1, "gain music = 99 dB is outside -inf to 24"),
        (["--gains", "music"], 2, "--gains music: expected NAME=DB, as in --gains vocals=-20"),
        (["--gains", "music=loud"], 2, "--gains music=loud: expected NAME=DB"),
        (["--two-stems", ""], 1, "no model makes all of"),
        (["--stems", "a,,b"], 2, "--stems a,,b: expected names"),
        (["--stems", "music", "--two-stems", "music"], 2, "not allowed with"),
        (["--gains", "music=1", "--exact"], 2, "--exact: is of stems"),
        (
            ["-o", "b.wav"],
            2,
            "is one file, and the model makes speech music effects; give a folder, or choose ",
        ),
        (["--raw", "s16le"], 2, "--raw: a pipe takes one sound"),
        (["--raw", "s16le", "--stems", "music"], 2, "--raw: is for standard input and output"),
        (["--channels", "2"], 2, "--channels: is of bare samples"),
        (["--ray", "local", "-o", "-", "--stems", "music"], 2, "--ray: takes files to files"),
    ],
)
def test_wrong_usage(here, cli, words, code, text):
    wav("a.wav")
    done = cli("separate", "a.wav", *words)
    assert (done.code, text in done.err) == (code, True), done.err
    assert names(here) == ["a.wav"]


def test_models_that_do_not_separate(here, cli, toys, monkeypatch, tmp_path):
    wav("a.wav")
    toys.build("toy.onnx")
    done = cli("separate", "a.wav", "-m", "toy.onnx")
    assert (done.code, "toy: takes no sound apart into its like; its task is enhance" in done.err) == (
        1,
        True,
    )
    monkeypatch.setattr(catalogue, "PRETRAINED", tmp_path / "none")
    for words in ([], ["--stems", "vocals"]):
        done = cli("separate", "a.wav", *words)
        assert (done.code, "no default model for separate ships" in done.err) == (1, True)


def test_the_work_goes_to_other_machines(here):
    wanted = Wanted(gains={"music": -inf})
    work = pickle.loads(pickle.dumps(partial(Separate, "cinema", Options(), wanted)))()
    assert work.wanted == wanted


@pytest.mark.slow
def test_ray(here, cli, models):
    pytest.importorskip("ray")
    x = wav("a.wav")
    done = cli("separate", "a.wav", "-o", "out", "--exact", "--ray", "local", "-m", models / "cinema.onnx")
    assert done.code == 0, done.err
    np.testing.assert_allclose(sum(sounds("out/a").values()), x, atol=1e-6)
