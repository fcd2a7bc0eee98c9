"""audiomask.audio: what is read is what was written; errors are named; nothing half-written stays."""

import os
import resource
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiomask import audio
from audiomask.audio import (
    AudioError,
    AudioWarning,
    Reader,
    Writer,
    choose_format,
    info,
    read,
    replacing,
    write,
)


def wav(path, x, rate=16000, subtype="PCM_16", **options):
    sf.write(path, x.T, rate, subtype=subtype, **options)
    return path


@contextmanager
def nobody():
    """The rights of an ordinary user, for tests that run as root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# --- reading


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_reads_what_soundfile_wrote(tmp_path, noise, subtype):
    x = noise(2, 1000)
    path = wav(tmp_path / "a.wav", x, subtype=subtype)
    y, rate = read(path)
    assert rate == 16000
    assert y.dtype == np.float32
    assert y.shape == x.shape
    step = {"PCM_U8": 2**-7, "PCM_16": 2**-15, "ULAW": 2**-6}.get(subtype, 2**-22)
    np.testing.assert_allclose(y, x, atol=step)


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
@pytest.mark.parametrize("channels", [1, 6])
def test_rates_and_channels(tmp_path, noise, rate, channels):
    path = wav(tmp_path / "a.wav", noise(channels, 50), rate)
    assert (info(path).rate, info(path).channels, info(path).frames) == (rate, channels, 50)


def test_part_and_blocks(tmp_path, noise):
    path = wav(tmp_path / "a.wav", noise(1, 1000), subtype="FLOAT")
    whole, _ = read(path)
    assert np.array_equal(read(path, 100, 50)[0], whole[:, 100:150])
    assert np.array_equal(read(path, 900)[0], whole[:, 900:])
    with Reader(path) as reader:
        blocks = list(reader.blocks(300))
    assert [b.shape[1] for b in blocks] == [300, 300, 300, 100]
    assert np.array_equal(np.concatenate(blocks, 1), whole)
    with pytest.raises(AudioError, match="start 1000 is outside its 1000 samples"):
        read(path, 1000)


def test_nan_is_cleaned_and_reported(tmp_path, noise):
    x = noise(1, 100)
    x[0, 3:5], x[0, 7] = np.nan, np.inf
    path = wav(tmp_path / "a.wav", x, subtype="FLOAT")
    with pytest.warns(AudioWarning, match=r"a\.wav: 3 samples were NaN or infinite"):
        y, _ = read(path)
    assert np.array_equal(y[0, [3, 4, 7]], [0, 0, 0])
    assert np.array_equal(y[0, 10:], x[0, 10:])


def test_truncated_wav_gives_what_is_there_and_says_so(tmp_path, noise):
    path = wav(tmp_path / "a.wav", noise(1, 1000))
    path.write_bytes(path.read_bytes()[:1044])
    with pytest.warns(AudioWarning, match="truncated: its header promises 2000 bytes .*, 1000 are there"):
        y, _ = read(path)
    assert y.shape == (1, 500)


def test_damaged_flac_is_an_error_that_tells_how_to_save_the_rest(tmp_path, noise):
    path = tmp_path / "a.flac"
    sf.write(path, noise(1, 200_000)[0], 16000)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(20_000) + data[len(data) // 2 + 20_000 :])
    with pytest.raises(AudioError, match=r"a\.flac: damaged after .* ffmpeg -i .*a\.flac out\.wav saves"):
        read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"RIFF", "not audio that libsndfile"),
        (b"<html>no</html>" * 100, "not audio that libsndfile or FFmpeg can read .*; is it audio"),
    ],
)
def test_no_audio(tmp_path, content, words):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=words) as error:
        read(path)
    assert str(path) in str(error.value)


def test_bad_places(tmp_path):
    for path, words in (
        (tmp_path / "none.wav", "no such file"),
        (tmp_path, "is a folder"),
        ("/dev/zero", "device or a pipe"),
        ("x" * 5000, "cannot be opened"),
    ):
        with pytest.raises(AudioError, match=words):
            read(path)


def test_absurd_headers(tmp_path):
    for shape, rate, words in (
        ((0, 1), 16000, "holds no samples"),
        (10, 12, "sample rate 12 Hz is outside 4000 to 768000"),
        ((10, 200), 16000, "200 channels are more than 128"),
    ):
        sf.write(tmp_path / "a.wav", np.zeros(shape), rate)
        with pytest.raises(AudioError, match=words):
            read(tmp_path / "a.wav")


def test_no_permission(tmp_path, noise):
    path = wav(tmp_path / "a.wav", noise(1, 10))
    path.chmod(0)
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    with nobody(), pytest.raises(AudioError, match=r"cannot be read \(Permission denied\)"):
        read(path)
    with nobody(), pytest.raises(AudioError, match=r"cannot be written \(Permission denied\)"):
        write(tmp_path / "b.wav", noise(1, 10), 16000)


# --- writing


@pytest.mark.parametrize(
    ("name", "subtype", "error"),
    [("a.wav", "PCM_16", 2**-16), ("a.wav", "PCM_24", 2**-24), ("a.wav", "FLOAT", 0),
     ("a.flac", "PCM_16", 2**-16), ("a.flac", "PCM_24", 2**-24), ("a.aiff", "PCM_24", 2**-24),
     ("a.w64", "FLOAT", 0), ("a.rf64", "PCM_16", 2**-16), ("a.caf", "FLOAT", 0)],
)  # fmt: skip
def test_round_trip_rounds_to_the_nearest_step(tmp_path, noise, name, subtype, error):
    x = noise(2, 3000)
    write(tmp_path / name, x, 44100, subtype=subtype)
    y, rate = read(tmp_path / name)
    assert rate == 44100
    assert np.abs(y - x).max() <= error * 1.0001
    assert info(tmp_path / name).subtype == subtype
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.ogg", "a.opus", "a.mp3"])
def test_lossy_formats(tmp_path, name):
    x = 0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000, dtype=np.float32)[None]
    write(tmp_path / name, x, 48000)
    y, rate = read(tmp_path / name)
    assert rate == 48000
    assert np.sqrt((y**2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_clip_policies(tmp_path, noise):
    x = noise(1, 1000)
    x[0, 10], x[0, 20] = 2.0, -1.5
    with pytest.warns(AudioWarning, match=r"2 samples beyond full scale \(peak 2.000\); --clip rescale"):
        write(tmp_path / "clamp.wav", x, 16000, subtype="PCM_24")
    np.testing.assert_allclose(read(tmp_path / "clamp.wav")[0], np.clip(x, -1, 1), atol=2**-22)
    with pytest.warns(AudioWarning, match=r"peak 2.000, so turned down by 6.02 dB"):
        write(tmp_path / "rescale.wav", x, 16000, subtype="PCM_24", clip="rescale")
    np.testing.assert_allclose(read(tmp_path / "rescale.wav")[0], x * (1 - 2**-15) / 2, atol=2**-22)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path / "none.wav", x, 16000, subtype="FLOAT")
        write(tmp_path / "quiet.wav", x / 2, 16000, subtype="FLOAT", clip="rescale")
    assert np.array_equal(read(tmp_path / "none.wav")[0], x)
    assert np.array_equal(read(tmp_path / "quiet.wav")[0], x / 2)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_logarithmic_formats_hold_nothing_beyond_full_scale(tmp_path, noise, subtype):
    x = 30 * noise(1, 1000)
    for clip in ("none", "clamp"):
        with pytest.warns(AudioWarning, match="beyond full scale"):
            write(tmp_path / f"{clip}.wav", x, 16000, subtype=subtype, clip=clip)
    assert (tmp_path / "none.wav").read_bytes() == (tmp_path / "clamp.wav").read_bytes()


def test_refuses_to_overwrite(tmp_path, noise):
    path = tmp_path / "a.wav"
    path.write_bytes(b"precious")
    with pytest.raises(AudioError, match="exists already; give -f"):
        write(path, noise(1, 10), 16000)
    assert path.read_bytes() == b"precious"
    write(path, noise(1, 10), 16000, overwrite=True)
    assert info(path).frames == 10
    with pytest.raises(AudioError, match="is a folder"):
        write(tmp_path, noise(1, 10), 16000, format="WAV", subtype="PCM_16")
    with pytest.raises(AudioError, match="device or a pipe"):
        write("/dev/null", noise(1, 10), 16000, format="WAV", subtype="PCM_16", overwrite=True)
    with pytest.raises(AudioError, match="its folder does not exist; mkdir -p"):
        write(tmp_path / "no" / "a.wav", noise(1, 10), 16000)


def test_a_link_stays_a_link(tmp_path, noise):
    (tmp_path / "real.wav").write_bytes(b"old")
    (tmp_path / "link.wav").symlink_to("real.wav")
    write(tmp_path / "link.wav", noise(1, 10), 16000, overwrite=True)
    assert (tmp_path / "link.wav").is_symlink()
    assert info(tmp_path / "real.wav").frames == 10


@pytest.mark.parametrize("clip", ["clamp", "rescale"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, noise, clip, error):
    path = tmp_path / "a.wav"
    path.write_bytes(b"precious")

    def fail():
        with Writer(path, 16000, 1, clip=clip, overwrite=True) as writer:
            writer.write(noise(1, 1000))
            assert len(list(tmp_path.iterdir())) == 2
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_is_forgotten_cleans_up(tmp_path, noise):
    writer = Writer(tmp_path / "a.wav", 16000, 1)
    writer.write(noise(1, 10))
    del writer
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("clip", ["clamp", "rescale"])
def test_full_disk(tmp_path, name, clip):
    """A limit on the size of files makes writes fail like a full disk does, in a process of its own."""
    code = (
        "import sys, numpy as np; from audiomask.audio import Writer, AudioError\n"
        "try:\n"
        f"  with Writer(sys.argv[1], 16000, 1, clip={clip!r}) as w:\n"
        "    for _ in range(100): w.write(np.random.default_rng(0).normal(0, .1, (1, 16000)).astype('f'))\n"
        "except AudioError as error: print(error); sys.exit(7)\n"
    )
    limit = 100_000 if clip == "clamp" else 2_000_000
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / name)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 7, done.stderr
    assert "writing failed after" in done.stdout
    assert "MiB are free" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_missing_tail_is_noticed_at_close(tmp_path, noise, monkeypatch):
    writer = Writer(tmp_path / "a.wav", 16000, 1)
    writer.write(noise(1, 10))
    writer.frames += 1  # as if the last sample had been lost in the flush
    with pytest.raises(AudioError, match="the end of it is missing"):
        writer.close()
    assert not list(tmp_path.iterdir())


def test_more_than_4_gib(tmp_path, noise, monkeypatch):
    hours = Writer(tmp_path / "a.wav", 16000, 1, frames=10 * 3600 * 16000 * 4, subtype="PCM_16")
    assert hours.format == "RF64"
    hours.write(noise(1, 100))
    hours.close()
    assert info(tmp_path / "a.wav").format == "RF64"
    assert info(tmp_path / "a.wav").frames == 100
    assert Writer(tmp_path / "b.wav", 16000, 1, frames=100).format == "WAV"
    monkeypatch.setattr("audiomask.audio.writer.MAX_RIFF_BYTES", 1000)
    for clip in ("clamp", "rescale"):
        with pytest.raises(AudioError, match="4 GiB"), Writer(tmp_path / "b.wav", 16000, 1, clip=clip) as w:
            w.write(noise(1, 501))


def test_formats(tmp_path):
    def like(format, subtype):
        return audio.AudioInfo("x", 16000, 1, 1, format, subtype)

    assert choose_format("a.wav", like=like("WAV", "PCM_24")) == ("WAV", "PCM_24")
    assert choose_format("a.wav", like=like("WAVEX", "FLOAT")) == ("WAVEX", "FLOAT")
    assert choose_format("a.flac", like=like("WAV", "FLOAT")) == ("FLAC", "PCM_24")
    assert choose_format("a.wav", like=like("MP3", "MPEG_LAYER_III")) == ("WAV", "PCM_16")
    assert choose_format("a.opus") == ("OGG", "OPUS")
    assert choose_format("a.ogg", like=like("OGG", "OPUS")) == ("OGG", "OPUS")
    assert choose_format("a.wav", subtype="float") == ("WAV", "FLOAT")
    with pytest.raises(AudioError, match=r"unknown suffix '\.xyz'"):
        choose_format("a.xyz")
    with pytest.raises(AudioError, match="FLAC cannot hold subtype FLOAT; it can hold"):
        choose_format("a.flac", subtype="FLOAT")
    with pytest.raises(
        AudioError, match=r"a\.opus: Opus holds 8000, .* 48000 Hz, not 44100; add --rate 48000"
    ):
        Writer(tmp_path / "a.opus", 44100, 1)
    assert not list(Path(tmp_path).iterdir())


def test_reader_closes_on_a_bad_header(tmp_path):
    sf.write(tmp_path / "slow.wav", np.zeros(10), 12)

    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(20):
        with pytest.raises(AudioError):
            Reader(tmp_path / "slow.wav")
    assert count() == before


def test_what_is_replaced_is_whole_or_as_it_was(tmp_path):
    path, link = tmp_path / "a.json", tmp_path / "link.json"
    link.symlink_to(path)
    with audio.replacing(link) as part:
        part.write_text("new")
        assert (part.parent, part.name[0], path.exists()) == (tmp_path, ".", False)
    assert (path.read_text(), link.is_symlink()) == ("new", True)

    def fail(error):
        with audio.replacing(path) as part:
            part.write_text("half")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    with pytest.raises(AudioError, match=r"a\.json: cannot be written \(No space left"):
        fail(OSError(28, "No space left on device"))
    for other in (BrokenPipeError(32, "Broken pipe"), FileNotFoundError(2, "No such file", "another")):
        with pytest.raises(type(other)):
            fail(other)
    with pytest.raises(AudioError, match="exists already"), audio.replacing(path, overwrite=False):
        pass
    with pytest.raises(AudioError, match="its folder does not exist"), audio.replacing(tmp_path / "no/a"):
        pass
    assert path.read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "link.json"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch, links, overwrite):
    if not links:  # as on a memory stick
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))

    def written():
        with Writer(tmp_path / "a.wav", 16000, 1, overwrite=overwrite) as writer:
            writer.write(np.zeros((1, 100)))
            (tmp_path / "a.wav").write_text("theirs")

    def replaced():
        with replacing(tmp_path / "a.wav", overwrite=overwrite) as part:
            part.write_text("ours")
            (tmp_path / "a.wav").write_text("theirs")

    for write_one in (written, replaced):
        (tmp_path / "a.wav").unlink(missing_ok=True)
        if overwrite:
            write_one()
        else:
            with pytest.raises(AudioError, match=r"a\.wav: exists already; give -f"):
                write_one()
        assert ((tmp_path / "a.wav").read_bytes() == b"theirs") != overwrite
        assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
