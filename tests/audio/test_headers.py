"""Files whose headers lie (cut, stale, unfinished, joined): what is there is read, what is wrong is said."""

import struct
import warnings

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.audio import AudioError, AudioWarning, Reader, read, verify, write

RATE, LENGTH = 16000, 12000
RNG = np.random.default_rng(0)
X = (0.3 * np.sin(np.arange(LENGTH) * 0.05) + 0.05 * RNG.standard_normal(LENGTH)).astype(np.float32)
CONTAINERS = {
    "wav": ("WAV", "PCM_16", "FILE"),
    "wavex": ("WAVEX", "PCM_24", "FILE"),
    "rifx": ("WAV", "PCM_16", "BIG"),
    "float": ("WAV", "FLOAT", "FILE"),
    "adpcm": ("WAV", "MS_ADPCM", "FILE"),
    "rf64": ("RF64", "PCM_16", "FILE"),
    "aiff": ("AIFF", "PCM_16", "FILE"),
    "sowt": ("AIFF", "PCM_16", "LITTLE"),
    "au": ("AU", "PCM_16", "FILE"),
    "ulaw": ("AU", "ULAW", "FILE"),
    "sphere": ("NIST", "PCM_16", "FILE"),
    "w64": ("W64", "PCM_16", "FILE"),
    "caf": ("CAF", "PCM_16", "FILE"),
    "flac": ("FLAC", "PCM_16", "FILE"),
}


class Files(dict):
    """By name: the bytes of a whole file, and its samples."""

    def __repr__(self):  # hypothesis prints arguments
        return "files"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("files"), Files()
    for name, (format, subtype, endian) in CONTAINERS.items():
        path = folder / name
        sf.write(path, X, RATE, format=format, subtype=subtype, endian=endian)
        made[name] = path.read_bytes(), sf.read(path, dtype="float32", always_2d=True)[0].T
    return made


def heard(path):
    """The samples of a file, and the notes on it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y, _ = read(path)
    return y, " ".join(str(one.message) for one in caught)


@pytest.mark.parametrize("name", CONTAINERS)
def test_whole_files_say_nothing(files, tmp_path, name):
    data, samples = files[name]
    (tmp_path / "a").write_bytes(data)
    y, notes = heard(tmp_path / "a")
    assert np.array_equal(y, samples)
    assert not notes
    assert verify(tmp_path / "a").frames == samples.shape[1]


@pytest.mark.parametrize("name", CONTAINERS)
@given(share=st.floats(0.5, 0.999))
@settings(max_examples=6, deadline=None)
def test_of_a_cut_file_is_read_what_is_there(files, tmp_path_factory, name, share):
    data, samples = files[name]
    path = tmp_path_factory.mktemp("cut") / "a"
    path.write_bytes(data[: int(len(data) * share)])
    y, notes = heard(path)
    unit = 4096 if name == "flac" else 500 if name == "adpcm" else 1
    assert y.shape[1] >= (LENGTH * share - 2100) // unit * unit
    assert np.array_equal(y, samples[:, : y.shape[1]])
    assert y.shape[1] == samples.shape[1] or "truncated" in notes
    if y.shape[1] < samples.shape[1]:
        with pytest.raises(AudioError, match="truncated"):
            verify(path)


@pytest.mark.parametrize("name", sorted(CONTAINERS.keys() - {"flac", "adpcm"}))
def test_samples_beyond_a_stale_size_are_read(files, tmp_path, name):
    data, samples = files[name]
    (tmp_path / "a").write_bytes(data + data[-3996:])
    y, notes = heard(tmp_path / "a")
    assert y.shape[1] > LENGTH + 500
    assert np.array_equal(y[:, :LENGTH], samples)
    assert np.array_equal(y[:, LENGTH:], samples[:, LENGTH - (y.shape[1] - LENGTH) :])
    assert "stale header" in notes


SIZES = {"wav": (40, "<I"), "rifx": (40, ">I"), "au": (8, ">I"), "w64": (None, None)}


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("name", ["wav", "rifx", "au"])
def test_a_size_that_was_never_filled_in_is_no_fault(files, tmp_path, name, size):
    data, samples = files[name]
    at, form = SIZES[name]
    (tmp_path / "a").write_bytes(data[:at] + struct.pack(form, size) + data[at + 4 :])
    y, notes = heard(tmp_path / "a")
    assert np.array_equal(y, samples)
    assert not notes


@pytest.mark.parametrize("size", [0, 2**64 - 1])
def test_rf64_from_a_pipe(files, tmp_path, size):
    data, samples = files["rf64"]
    data = data[:20] + struct.pack("<QQQ", size, size, 0) + data[44:]
    (tmp_path / "a").write_bytes(data)
    assert np.array_equal(heard(tmp_path / "a")[0], samples)


def test_caf_of_unknown_length(files, tmp_path):
    data, samples = files["caf"]
    at = data.index(b"data") + 4
    (tmp_path / "a").write_bytes(data[:at] + struct.pack(">q", -1) + data[at + 8 :])
    assert np.array_equal(heard(tmp_path / "a")[0], samples)


def test_flac_from_a_pipe(files, tmp_path):
    data, samples = files["flac"]
    bits = int.from_bytes(data[18:26], "big") & ~(2**36 - 1)
    (tmp_path / "a").write_bytes(data[:18] + bits.to_bytes(8, "big") + data[26:])
    y, notes = heard(tmp_path / "a")
    assert np.array_equal(y, samples)
    assert not notes
    assert verify(tmp_path / "a").frames == LENGTH


@pytest.mark.parametrize("chunk", [b"LIST", b"bext", b"iXML"])
def test_a_chunk_after_the_samples_is_not_heard(files, tmp_path, chunk):
    data, samples = files["wav"]
    for more in (struct.pack("<4sI", chunk, 100) + bytes(100), struct.pack("<4sI", chunk, 900) + bytes(100)):
        (tmp_path / "a").write_bytes(data + more)
        y, notes = heard(tmp_path / "a")
        assert np.array_equal(y, samples)
        assert not notes


@pytest.mark.parametrize("tag", [b"TAG" + bytes(125), b"ID3\x04" + bytes(300)])
def test_a_tag_after_the_samples_is_not_heard(files, tmp_path, tag):
    data, samples = files["wav"]
    (tmp_path / "a").write_bytes(data + tag)
    assert np.array_equal(heard(tmp_path / "a")[0], samples)


JOINED = {
    "wav": ("wav", {}),
    "flac": ("flac", {}),
    "vorbis": ("ogg", {"subtype": "VORBIS"}),
    "opus": ("opus", {}),
    "mp3": ("mp3", {}),
}


@pytest.mark.parametrize("name", JOINED)
def test_joined_files_are_read_to_the_end(tmp_path, name):
    suffix, how = JOINED[name]
    paths = [tmp_path / f"{i}.{suffix}" for i in range(3)]
    for i, path in enumerate(paths):
        write(path, X[i * 1000 : 9000 + i * 500], RATE, **how)
    parts = [heard(path)[0] for path in paths]
    whole = tmp_path / f"whole.{suffix}"
    whole.write_bytes(b"".join(path.read_bytes() for path in paths))
    y, notes = heard(whole)
    assert np.array_equal(y, np.concatenate(parts, 1))
    assert not notes
    with Reader(whole) as reader:
        assert reader.info.frames == y.shape[1]
    start = parts[0].shape[1] - 700
    assert np.array_equal(read(whole, start, 1500)[0], y[:, start : start + 1500])


def test_joined_files_of_other_rates_are_refused(tmp_path):
    for rate in (16000, 48000):
        write(tmp_path / f"{rate}.ogg", X, rate)
    data = [(tmp_path / f"{rate}.ogg").read_bytes() for rate in (16000, 48000)]
    (tmp_path / "both.ogg").write_bytes(data[0] + data[1])
    with pytest.raises(AudioError, match=r"both\.ogg: joined from files of 16000 Hz .* and 48000 Hz"):
        read(tmp_path / "both.ogg")


@pytest.mark.parametrize("suffix", ["ogg", "opus", "mp3", "flac", "wav"])
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_parts_and_blocks_are_those_of_the_whole(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    x = np.tile(X, 6)[: 64001 if rate == 16000 else 50000]
    sf.write(path, x, rate, **({"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}))
    with sf.SoundFile(path) as file:  # in one call, and never after a seek but that to the beginning
        file.seek(0)
        whole = file.read(dtype="float32", always_2d=True).T
    y, _ = read(path)
    assert np.array_equal(y, whole)
    with Reader(path) as reader:
        blocks = list(reader.blocks(1000))
    assert np.array_equal(np.concatenate(blocks, 1), whole)
    for start, count in ((60000 * len(x) // 64001, 2000), (31, 5000), (len(x) - 100, 1000)):
        assert np.array_equal(read(path, start, count)[0], whole[:, start : start + count])


def test_mp3_of_a_low_rate_is_the_same_in_blocks(tmp_path):
    """soundfile seeks after each read, and mpg123 then starts without the bits of the frames before."""
    path = tmp_path / "a.mp3"
    sf.write(path, np.tile(X, 20), RATE, compression_level=0.99)
    whole = sf.read(path, dtype="float32")[0]
    assert np.array_equal(read(path)[0][0], whole)


def test_half_an_mp3_and_a_whole_one_without_a_header(tmp_path):
    path = tmp_path / "a.mp3"
    sf.write(path, np.tile(X, 10), RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    y, notes = heard(path)
    assert 55000 < y.shape[1] < 65000
    assert "truncated" in notes
    at = data.index(b"Info") if b"Info" in data[:200] else data.index(b"Xing")
    path.write_bytes(data[:at] + b"\0" * 4 + data[at + 4 :])  # what a pipe leaves: no table
    y, notes = heard(path)
    assert y.shape[1] >= 120000
    assert not notes


def test_a_cut_ogg_says_so(tmp_path):
    path = tmp_path / "a.ogg"
    sf.write(path, np.tile(X, 10), RATE)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.warns(AudioWarning, match=r"cut off: its last page .* what is there was used"):
        read(path)


@pytest.mark.parametrize("suffix", ["mp3", "wav", "flac", "ogg", "aiff", "au", "caf", "w64"])
def test_what_a_mac_leaves_beside_a_file_does_not_matter(tmp_path, suffix):
    """libsndfile 1.2.2 looks into ._NAME for the header of a file that begins like none, as MP3 does."""
    x = 0.1 * np.sin(np.arange(16000) * 0.05)
    write(tmp_path / f"a.{suffix}", x, 16000)
    want = read(tmp_path / f"a.{suffix}")[0]
    entries = struct.pack(">H6I", 2, 9, 50, 3760, 2, 3810, 286)
    double = bytes.fromhex("0005160700020000") + b"Mac OS X        " + entries + bytes(4046)
    (tmp_path / f"._a.{suffix}").write_bytes(double)
    np.testing.assert_array_equal(read(tmp_path / f"a.{suffix}")[0], want)
