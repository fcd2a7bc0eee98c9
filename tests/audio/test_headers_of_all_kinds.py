"""What generated files found (tools/compare/files_with_ffmpeg.py): each kind of fault, and what is right."""

import io
import struct
import warnings
from fractions import Fraction

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import AudioError, Reader, choose_format, read, write
from audiomask.audio.formats import AudioInfo

RATE = 16000
X = (0.3 * np.sin(np.arange(9001) * 0.05) * np.array([[1], [0.5]])).astype(np.float32)


def made(tmp_path, name, x, **how):
    sf.write(tmp_path / name, x.T, RATE, **how)
    return (tmp_path / name).read_bytes()


def heard(path, data=None):
    """The samples of a file and the notes on it."""
    if data is not None:
        path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y, _ = read(path)
    return y, " ".join(str(one.message).removeprefix(str(path)) for one in caught)


def plain(path):
    return sf.read(path, dtype="float32", always_2d=True)[0].T


def film(coding, container, frames=9001, options=None):
    """A file that FFmpeg writes."""
    av, out = pytest.importorskip("av"), io.BytesIO()
    with av.open(out, "w", format=container, options=options or {}) as file:
        stream = file.add_stream(coding, rate=RATE, layout="stereo")
        stream.codec_context.open()
        convert = av.AudioResampler(stream.format, "stereo", RATE, stream.codec_context.frame_size or None)
        numbers = np.ascontiguousarray((X[:, :frames].T * 32767).astype(np.int16)).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(numbers, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        for part in (*convert.resample(frame), *convert.resample(None)):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return out.getvalue()


# --- RIFF and its relatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["WAV", "RF64", "CAF", "W64"])
def test_a_byte_that_fills_up_is_no_sample(tmp_path, format):
    made(tmp_path, "a", X[:1], format=format, subtype="ULAW")
    y, notes = heard(tmp_path / "a")
    assert (y.shape[1], notes) == (9001, "")


def rf64(magic, chunk):
    body = (X[0] * 32000).astype("<i2").tobytes()
    head = chunk + b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    sizes = struct.pack("<IQQQI", 28, 44 + len(head) + len(body), len(body), len(body) // 2, 0)
    return magic + b"\xff" * 4 + b"WAVEds64" + sizes + head + b"data" + b"\xff" * 4 + body


@pytest.mark.parametrize("magic", [b"RF64", b"BW64"])
@pytest.mark.parametrize("length", [10, 11])
def test_rf64_with_odd_chunks_is_read_without_ffmpeg(tmp_path, monkeypatch, magic, length):
    """libsndfile 1.2.2 knows no BW64, and loses its way after a chunk of an odd length."""
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    chunk = b"iXML" + struct.pack("<I", length) + b" " * length + bytes(length % 2)
    y, notes = heard(tmp_path / "a.wav", rf64(magic, chunk))
    assert not notes
    assert np.array_equal(y[0], (X[0] * 32000).astype(np.int16) / np.float32(2**15))
    assert np.array_equal(read(tmp_path / "a.wav", 5000, 30)[0], y[:, 5000:5030])


@pytest.mark.parametrize("format", ["WAV", "AIFF"])
@pytest.mark.parametrize("size", [0, 3000])
def test_a_chunk_behind_samples_of_a_wrong_size_is_not_heard(tmp_path, format, size):
    data, order = made(tmp_path, "a", X, format=format), "<" if format == "WAV" else ">"
    whole = plain(tmp_path / "a")
    at = data.index(b"data" if format == "WAV" else b"SSND") + 4
    chunk = (b"LIST" if format == "WAV" else b"ANNO") + struct.pack(f"{order}I", 500) + bytes(500)
    y, notes = heard(tmp_path / "a", data[:at] + struct.pack(f"{order}I", size) + data[at + 4 :] + chunk)
    assert np.array_equal(y, whole)
    assert ("stale header" in notes) == (size > 0)


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "PCM_U8"])
def test_a_byte_that_fills_up_before_a_chunk_is_no_sample_where_the_size_is_open(tmp_path, subtype):
    data = made(tmp_path, "a", X[:1], format="WAV", subtype=subtype)
    whole, at = plain(tmp_path / "a"), data.index(b"data") + 4
    data = data[:at] + b"\xff" * 4 + data[at + 4 : at + 4 + 9001] + b"\0" + b"LIST\x04\0\0\0INFO"
    y, notes = heard(tmp_path / "a", data)
    assert not notes
    assert np.array_equal(y, whole)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
@pytest.mark.parametrize("format", ["WAV", "W64"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_block_that_is_cut_is_read_as_far_as_it_goes(tmp_path, format, subtype, channels):
    data = made(tmp_path, "a", X[:channels], format=format, subtype=subtype)
    whole = plain(tmp_path / "a")
    head, each = (7, 2) if subtype == "MS_ADPCM" else (4, 1)
    block, start = (256, data.index(b"data") + (8 if format == "WAV" else 24))
    block = struct.unpack_from("<H", data, data.index(b"fmt ") + (20 if format == "WAV" else 36))[0]
    for cut in (block * 2 // 3 // 8 * 8 + head * channels, block + head * channels + 8 * channels, 2 * block):
        y, notes = heard(tmp_path / "a", data[: start + cut])
        full, rest = divmod(cut, block)
        samples = full * (each + (block - head * channels) * 2 // channels)
        samples += each + (rest - head * channels) * 2 // channels if rest else 0
        assert y.shape[1] == samples
        assert np.array_equal(y, whole[:, :samples])
        assert "truncated" in notes


def test_less_than_a_block_of_adpcm_is_no_sound(tmp_path):
    data = made(tmp_path, "a", X, format="W64", subtype="IMA_ADPCM")
    (tmp_path / "a").write_bytes(data[: data.index(b"data") + 25])
    with pytest.raises(AudioError, match=r"truncated: its header promises .*, 1 are there"):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    ("field", "wrong", "warns"),
    [(12, 8, "frames of 8 bytes"), (14, 0, "0 bits, where 16"), (2, 3, "3 channels, where 2")],
)
@pytest.mark.parametrize("format", ["WAV", "W64"])
def test_two_of_three_numbers_are_believed(tmp_path, format, field, wrong, warns):
    """The block, or the bits, contradict what the other numbers of the header say."""
    data = made(tmp_path, "a", X, format=format, subtype="PCM_16")
    whole, at = plain(tmp_path / "a"), data.index(b"fmt ") + (8 if format == "WAV" else 24) + field
    y, notes = heard(tmp_path / "a", data[:at] + struct.pack("<H", wrong) + data[at + 2 :])
    assert np.array_equal(y, whole)
    assert warns in notes


def test_numbers_that_contradict_each_other_are_refused(tmp_path):
    """One channel of 16 bits in frames of 4 bytes: two channels, or 32 bits?"""
    data = made(tmp_path, "a", X, format="WAV")
    (tmp_path / "a").write_bytes(data[:22] + struct.pack("<H", 1) + data[24:])
    with pytest.raises(AudioError, match="contradicts itself: 1 channels of 16 bits in frames of 4 bytes"):
        read(tmp_path / "a")


@pytest.mark.parametrize("format", ["WAV", "RF64", "W64"])
@pytest.mark.parametrize("subtype", ["PCM_32", "FLOAT"])
def test_sixty_four_bits_in_four_bytes_are_not_believed(tmp_path, format, subtype):
    """One channel has 32 bits then; two may be one of 64, unless RF64 says how many are used."""
    for x in (X[:1], X):
        data = made(tmp_path, "a", x, format=format, subtype=subtype)
        whole, at = plain(tmp_path / "a"), data.index(b"fmt ") + (24 if format == "W64" else 8) + 14
        wrong = data[:at] + struct.pack("<H", 64) + data[at + 2 :]
        if len(x) == 1 or format == "RF64":
            y, notes = heard(tmp_path / "a", wrong)
            assert np.array_equal(y, whole)
            assert "64 bits, where 32" in notes
        else:
            (tmp_path / "a").write_bytes(wrong)
            with pytest.raises(
                AudioError, match="contradicts itself: 2 channels of 64 bits in frames of 8 bytes"
            ):
                read(tmp_path / "a")


@pytest.mark.parametrize(("field", "wrong"), [(36, 6), (44, 7), (48, 16)])
def test_numbers_of_caf_that_contradict_each_other_are_refused(tmp_path, field, wrong):
    """Two numbers say how long a packet is, and none says which of them is wrong."""
    data = made(tmp_path, "a", np.tile(X, (4, 1)), format="CAF", subtype="PCM_24")
    (tmp_path / "a").write_bytes(data[:field] + struct.pack(">I", wrong) + data[field + 4 :])
    with pytest.raises(
        AudioError, match=r"contradicts itself: \d channels of \d+ bits in packets of \d+ bytes"
    ):
        read(tmp_path / "a")


@pytest.mark.parametrize(("field", "wrong"), [(36, 4), (44, 3)])
@pytest.mark.parametrize("subtype", ["ALAW", "ULAW"])
def test_numbers_of_companded_caf_that_contradict_each_other_are_refused(tmp_path, subtype, field, wrong):
    data = made(tmp_path, "a", X, format="CAF", subtype=subtype)
    (tmp_path / "a").write_bytes(data[:field] + struct.pack(">I", wrong) + data[field + 4 :])
    with pytest.raises(AudioError, match="contradicts itself"):
        read(tmp_path / "a")


@pytest.mark.parametrize("frames", [1, 3])
def test_a_damaged_last_frame_of_flac_from_a_pipe_is_named(tmp_path, frames):
    """Its length is not in the header, so only the frame itself can tell; there may be no other one."""
    x = np.random.default_rng(0).normal(0, 0.1, 4096 * (frames - 1) + 900)
    data = bytearray(made(tmp_path, "a", x, format="FLAC"))
    data[18:26] = (int.from_bytes(data[18:26], "big") & ~(2**36 - 1)).to_bytes(8, "big")
    data[-300] ^= 1
    if frames == 1:
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(AudioError, match="cut off: its last frame is damaged or not whole"):
            read(tmp_path / "a")
        data[data.rindex(b"\xff\xf8", 0, 12000) + 5] ^= 1  # in the header of the frame
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(AudioError, match="damaged: no frame in it is whole"):
            read(tmp_path / "a")
        return
    y, notes = heard(tmp_path / "a", bytes(data))
    assert y.shape[-1] == 4096 * (frames - 1)
    assert "its last frame is damaged or not whole, and was left out" in notes


@pytest.mark.parametrize(("field", "wrong"), [(8, 3), (14, 24)])
def test_numbers_of_aiff_that_contradict_each_other_are_refused(tmp_path, field, wrong):
    """As many samples as it says fill its bytes only with another number of channels, or of bits."""
    x = np.random.default_rng(0).normal(0, 0.1, (5, 257))
    data = bytearray(made(tmp_path, "a", x, format="AIFF", subtype="PCM_32"))
    at = data.index(b"COMM") + field
    data[at : at + 2] = struct.pack(">H", wrong)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(AudioError, match=r"contradicts itself: 257 samples of \d channels of \d\d bits"):
        read(tmp_path / "a")


def test_samples_of_au_that_begin_behind_its_end_follow_the_header(tmp_path):
    data = made(tmp_path, "a", X, format="AU", subtype="FLOAT")
    whole = plain(tmp_path / "a")
    y, notes = heard(tmp_path / "a", data[:4] + b"\xff" * 4 + data[8:])
    assert np.array_equal(y, whole)
    assert "begin at byte 4294967295, behind its end" in notes


def test_a_film_behind_the_chunks_of_a_wav_is_none_of_its_samples(tmp_path):
    data = made(tmp_path, "a", X, format="WAV")
    whole = plain(tmp_path / "a")
    chunk, film = b"LIST\x04\0\0\0INFO", b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom" + bytes(500)
    y, notes = heard(tmp_path / "a", data + chunk + film)
    assert np.array_equal(y, whole)
    assert "left out: what is joined at byte" in notes


def test_a_chunk_that_is_cut_in_its_length_is_none_of_the_samples(tmp_path):
    data = made(tmp_path, "a", X, format="WAV")
    whole = plain(tmp_path / "a")
    y, notes = heard(tmp_path / "a", data + b"LIST\0\0")
    assert np.array_equal(y, whole)
    assert not notes


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
@pytest.mark.parametrize("format", ["WAV", "W64"])
def test_channels_of_adpcm_that_do_not_fit_its_blocks(tmp_path, format, subtype):
    data = made(tmp_path, "a", X, format=format, subtype=subtype)
    whole, at = plain(tmp_path / "a"), data.index(b"fmt ") + (10 if format == "WAV" else 26)
    y, notes = heard(tmp_path / "a", data[:at] + struct.pack("<H", 1) + data[at + 2 :])
    assert np.array_equal(y, whole)
    assert "1 channels, where 2 were used" in notes


@pytest.mark.parametrize("name", ["a.au", "a.snd"])
def test_a_name_alone_makes_no_sound(tmp_path, name):
    """libsndfile 1.2.2 takes any bytes under these names for mu-law."""
    (tmp_path / name).write_bytes(b"this is no sound\n" * 50)
    with pytest.raises(AudioError, match="its header is missing"):
        read(tmp_path / name)


@pytest.mark.parametrize("size", [2**63 - 1, 2**63 - 4, 2**62])
def test_a_size_that_no_file_has(tmp_path, size):
    data = made(tmp_path, "a", X, format="CAF")
    at, whole = data.index(b"data") + 4, plain(tmp_path / "a")
    assert np.array_equal(
        heard(tmp_path / "a", data[:at] + struct.pack(">q", size) + data[at + 8 :])[0], whole
    )


def test_au_whose_samples_begin_in_its_header(tmp_path):
    data = made(tmp_path, "a", X, format="AU")
    whole = plain(tmp_path / "a")
    y, _ = heard(tmp_path / "a", data[:4] + bytes(4) + data[8:])
    assert np.array_equal(y, whole)


@pytest.mark.parametrize("frames", [0, 4000, 20000])
def test_aiff_has_the_samples_of_its_bytes(tmp_path, frames):
    data = made(tmp_path, "a", X, format="AIFF")
    whole, at = plain(tmp_path / "a"), data.index(b"COMM") + 10
    y, notes = heard(tmp_path / "a", data[:at] + struct.pack(">I", frames) + data[at + 4 :])
    assert np.array_equal(y, whole)
    assert f"it says {frames} samples, 9001 are there" in notes


def test_w64_ends_where_it_says(tmp_path):
    """libsndfile 1.2.2 goes on to the next multiple of 8 bytes."""
    for length, behind in ((9000, b"TAG".ljust(15, b"x")), (9001, b"xyz")):
        data = made(tmp_path, "a", X[:, :length], format="W64", subtype="PCM_U8")
        y, _ = heard(tmp_path / "a", data + behind)
        assert y.shape[1] == length
    data = made(tmp_path, "a", X[:1, :505], format="W64", subtype="IMA_ADPCM")
    whole = plain(tmp_path / "a")
    assert np.array_equal(heard(tmp_path / "a", data + b"this is no sound\n" * 30)[0], whole)


# --- Joined -------------------------------------------------------------------------------------------------

KINDS = {
    "au": ("AU", "PCM_16"), "aiff": ("AIFF", "PCM_S8"), "ima4": ("AIFF", "IMA_ADPCM"),
    "caf": ("CAF", "PCM_24"), "alac": ("CAF", "ALAC_16"), "w64": ("W64", "ULAW"), "sphere": ("NIST", "ALAW"),
    "rf64": ("RF64", "PCM_24"), "adpcm": ("WAV", "MS_ADPCM"), "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
}  # fmt: skip


@pytest.mark.parametrize("second", ["itself", "wav", "mp3"])
@pytest.mark.parametrize("kind", KINDS)
def test_joined_files_of_all_kinds(tmp_path, kind, second):
    format, subtype = KINDS[kind]
    parts = [made(tmp_path, "a", X[:, :n], format=format, subtype=subtype) for n in (9001, 4999)]
    if second != "itself":
        parts[1] = made(tmp_path, "a", X[:, :4999], format=second.upper())
    alone = [heard(tmp_path / "a", part)[0] for part in parts]
    y, notes = heard(tmp_path / "a", b"".join(parts))
    assert not notes
    assert np.array_equal(y, np.concatenate(alone, 1))


@pytest.mark.parametrize("format", ["W64", "AIFF", "FLAC", "AU", "CAF", "NIST"])
def test_of_joined_files_the_first_may_be_empty(tmp_path, format):
    parts = [made(tmp_path, "a", X[:, :n], format=format) for n in (0, 5000)]
    alone = heard(tmp_path / "a", parts[1])[0]
    assert np.array_equal(heard(tmp_path / "a", b"".join(parts))[0], alone)


@pytest.mark.parametrize("format", ["WAV", "AIFF", "CAF"])
def test_an_mp3_with_a_tag_behind_another_file(tmp_path, format):
    parts = [made(tmp_path, "a", X, format=format), ID3 + made(tmp_path, "a", X, format="MP3")]
    alone = [heard(tmp_path / "a", part)[0] for part in parts]
    y, notes = heard(tmp_path / "a", b"".join(parts))
    assert np.array_equal(y, np.concatenate(alone, 1))
    assert not notes


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_parts_of_joined_adpcm(tmp_path, subtype):
    """libsndfile 1.2.2 gives nothing where more is wanted than is there, if that fills its buffer."""
    data = made(tmp_path, "a", X, format="WAV", subtype=subtype)
    y, _ = heard(tmp_path / "a", data + data)
    start = y.shape[1] // 2 - 2048
    assert np.array_equal(read(tmp_path / "a", start, 5000)[0], y[:, start : start + 5000])


FILMS = {
    "aac": ("aac", "adts"), "m4a": ("aac", "ipod"), "mka": ("flac", "matroska"), "avi": ("pcm_s16le", "avi"),
    "webm": ("libopus", "webm"),
}  # fmt: skip


@pytest.mark.parametrize("second", ["itself", "wav", "mp3", "flac", *FILMS])
@pytest.mark.parametrize("first", FILMS)
def test_films_joined_with_all_kinds(tmp_path, first, second):
    """Each is read as it is read alone; FFmpeg goes on into the next, or ends with the first."""
    parts = [film(*FILMS[first]), film(*FILMS[first], 4999)]
    if second in FILMS:
        parts[1] = film(*FILMS[second], 4999)
    elif second != "itself":
        parts[1] = made(tmp_path, "a", X[:, :4999], format=second.upper())
    alone = [heard(tmp_path / "a", part)[0] for part in parts]
    if (first == "webm") != (second in ("webm", "itself")) and "webm" in (first, second):  # Opus is 48 kHz
        with pytest.raises(AudioError, match=r"joined from files of \d+ Hz"):
            heard(tmp_path / "a", parts[0] + parts[1])
        return
    y, notes = heard(tmp_path / "a", parts[0] + parts[1] + parts[0])
    assert not notes
    if first == "aac" and second in ("aac", "itself"):  # frames without a mark between files: one stream
        assert y.shape[1] == 2 * alone[0].shape[1] + alone[1].shape[1]
        return
    assert np.array_equal(y, np.concatenate([*alone, alone[0]], 1))


@pytest.mark.parametrize("coding", ["mp2", "aac"])
@pytest.mark.parametrize("format", ["WAV", "FLAC", "MP3", "AU", "W64"])
def test_a_few_frames_behind_another_file(tmp_path, format, coding):
    """A single frame of MP2 or AAC has no second one to show that it is one, but ends where the file does."""
    data = made(tmp_path, "a", X, format=format)
    alone, frames = heard(tmp_path / "a")[0], film(coding, {"aac": "adts"}.get(coding, coding))
    length = (frames[3] & 3) << 11 | frames[4] << 3 | frames[5] >> 5 if coding == "aac" else 0
    length = length or frames.index(frames[:3], 1)
    y, notes = heard(tmp_path / "a", data + frames[:length])
    assert np.array_equal(y[:, :9001], alone)
    if coding == "mp2":  # which no library reads alone
        assert y.shape[1] == 9001
        assert f"left out: what is joined at byte {len(data)}" in notes
    else:
        assert (y.shape[1], notes) == (9001 + 1024, "")


@pytest.mark.parametrize("format", ["WAV", "AIFF"])
@pytest.mark.parametrize("second", ["MP3", "mp2", "aac"])
def test_frames_behind_the_chunks_of_a_file(tmp_path, format, second):
    data, order = made(tmp_path, "a", X, format=format), "<" if format == "WAV" else ">"
    data += (b"LIST" if format == "WAV" else b"ANNO") + struct.pack(f"{order}I", 500) + bytes(500)
    if second == "MP3":
        frames = made(tmp_path, "a", X, format="MP3")
    else:
        frames = film(second, {"aac": "adts"}.get(second, second))
    alone = [heard(tmp_path / "a", part)[0] for part in (data, frames)]
    y, notes = heard(tmp_path / "a", data + frames)
    assert not notes
    assert np.array_equal(y, np.concatenate(alone, 1))


def test_aac_behind_a_tag_with_damage_and_another_file(tmp_path):
    frames, wave = film("aac", "adts"), made(tmp_path, "a", X[:, :500], format="WAV")
    alone = heard(tmp_path / "a", frames)[0]
    assert np.array_equal(heard(tmp_path / "a", ID3 + frames)[0], alone)
    middle = len(frames) // 2
    hurt = frames[:middle] + bytes(100) + frames[middle + 100 :]
    alone = heard(tmp_path / "a", hurt)[0]
    y, _ = heard(tmp_path / "a", ID3 + hurt + wave)
    assert np.array_equal(y[:, :-500], alone)
    assert y.shape[1] == alone.shape[1] + 500


def test_mp3_ends_where_another_file_begins(tmp_path):
    """What is between frames of MP3 is passed over, but no file of another kind."""
    data, count = frames_of(tmp_path)
    wave = made(tmp_path, "a", X[:, :500], format="WAV")
    y, notes = heard(tmp_path / "a", data + wave + data)
    assert y.shape[1] == 2 * count + 500
    assert not notes


@pytest.mark.parametrize("behind", ["SPHERE", "text"])
def test_w64_before_what_begins_with_text(tmp_path, behind):
    """libsndfile does not fill up; four bytes on, a header of SPHERE is text like any other."""
    data = made(tmp_path, "a", X[:, :9000], format="W64", subtype="PCM_U8")
    data = made(tmp_path, "a", X, format="W64", subtype="PCM_16")
    assert len(data) % 8
    whole = plain(tmp_path / "a")
    if behind == "SPHERE":
        second = made(tmp_path, "a", X, format="NIST", subtype="PCM_16")
        assert np.array_equal(heard(tmp_path / "a", data + second)[0], np.tile(whole, 2))
    else:
        assert np.array_equal(heard(tmp_path / "a", data + b"this is no sound\n" * 100)[0], whole)


def test_a_large_file_behind_flac(tmp_path):
    """Numbers that are random have heads of frames of FLAC among them."""
    rng = np.random.default_rng(0)
    data = made(tmp_path, "a", X[0], format="FLAC")
    whole = plain(tmp_path / "a")
    noise = made(tmp_path, "a", rng.uniform(-1, 1, 2**20), format="WAV", subtype="PCM_24")
    second = plain(tmp_path / "a")
    y, notes = heard(tmp_path / "a", data + noise)
    assert not notes
    assert np.array_equal(y, np.concatenate([whole, second], 1))


def test_an_avi_of_more_than_a_gigabyte_has_no_other_file_behind_it(tmp_path):
    """It goes on in a RIFF of another name (OpenDML)."""
    data = film("pcm_s16le", "avi")
    alone = heard(tmp_path / "a", data)[0]
    y, notes = heard(tmp_path / "a", data + b"RIFF" + struct.pack("<I", 104) + b"AVIX" + bytes(100))
    assert not notes
    assert np.array_equal(y, alone)


def test_a_part_that_nothing_reads_is_named(tmp_path):
    parts = [made(tmp_path, "a", X, format="WAV"), b"caff\0\1\0\0desc" + bytes(30)]
    y, notes = heard(tmp_path / "a", b"".join(parts))
    assert y.shape == X.shape
    assert f"left out: what is joined at byte {len(parts[0])} is not audio" in notes


# --- FLAC, Ogg ----------------------------------------------------------------------------------------------

ID3 = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)


@pytest.mark.parametrize("copies", [1, 2])
def test_flac_behind_id3(tmp_path, copies):
    data = made(tmp_path, "a", X, format="FLAC")
    whole = plain(tmp_path / "a")
    y, notes = heard(tmp_path / "a", copies * (ID3 + data))
    assert np.array_equal(y, np.tile(whole, copies))
    assert not notes


@pytest.mark.parametrize("behind", [b"this is no sound\n", b"TAG".ljust(128, b"\0")])
def test_flac_from_a_pipe_and_something_behind_it(tmp_path, behind):
    data = made(tmp_path, "a", X, format="FLAC")
    whole = plain(tmp_path / "a")
    bits = int.from_bytes(data[18:26], "big") & ~(2**36 - 1)
    y, _ = heard(tmp_path / "a", data[:18] + bits.to_bytes(8, "big") + data[26:] + behind)
    assert np.array_equal(y, whole)


def test_the_rate_of_flac_is_that_of_its_frames(tmp_path):
    data = made(tmp_path, "a", X, format="FLAC")
    (tmp_path / "a").write_bytes(data[:18] + b"\x89\xea" + data[20:])
    with Reader(tmp_path / "a") as reader:
        assert reader.info.rate == RATE
        assert f"its frames say {RATE} Hz" in reader.notes[0]


def test_flac_whose_only_frame_is_cut_says_so(tmp_path):
    data = made(tmp_path, "a", X[:, :500], format="FLAC")
    (tmp_path / "a").write_bytes(data[:-20])
    with pytest.raises(AudioError, match="truncated: its header promises 500 samples"):
        read(tmp_path / "a")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_page_that_is_cut_is_not_the_beginning_of_another_file(tmp_path, subtype):
    data = made(tmp_path, "a", np.tile(X, 12), format="OGG", subtype=subtype)
    whole = plain(tmp_path / "a")
    last = data.rindex(b"OggS")
    y, notes = heard(tmp_path / "a", data[: last + 100])
    assert 0 < y.shape[1] < whole.shape[1]
    assert np.array_equal(y, whole[:, : y.shape[1]])
    assert "cut off" in notes


@pytest.mark.parametrize("behind", [bytes(5000), b"this is no sound\n", b"TAG".ljust(128, b"\0")])
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_what_lies_behind_ogg_is_not_its_sound(tmp_path, subtype, behind):
    data = made(tmp_path, "a", X, format="OGG", subtype=subtype)
    alone = heard(tmp_path / "a")[0]
    assert np.array_equal(heard(tmp_path / "a", data + behind)[0], alone)


def test_a_damaged_page_of_ogg_is_missed(tmp_path):
    data = bytearray(made(tmp_path, "a", np.tile(X, 20), format="OGG", subtype="VORBIS"))
    data[len(data) // 2] ^= 255
    y, notes = heard(tmp_path / "a", bytes(data))
    assert y.shape[1] < 180020
    assert "damaged: 1 of its" in notes


# --- MP3 ----------------------------------------------------------------------------------------------------


def frames_of(tmp_path, x=X, **how):
    """An MP3 whose frame with the length is taken off, and the number of its samples."""
    data = made(tmp_path, "a", x, format="MP3", **how)
    at = 4 * (144 if RATE >= 32000 else 72)
    at = next(i for i in range(8, 2000) if data[i : i + 2] == data[:2] and data[i + 2] & 12 == data[2] & 12)
    count = struct.unpack(">I", data[data.index(b"Xing" if b"Xing" in data else b"Info") + 8 :][:4])[0]
    return data[at:], 576 * count


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_without_a_header_has_all_its_frames(tmp_path, mode, channels):
    """mpg123 leaves out 529 samples where a frame says the length, and libsndfile guesses without one."""
    data, count = frames_of(tmp_path, X[:channels], bitrate_mode=mode)
    whole = heard(tmp_path / "a")[0]  # trimmed
    for more in (b"", ID3, 2 * ID3):
        y, notes = heard(tmp_path / "a", more + data)
        assert (y.shape[1], notes) == (count, "")
        late = 576 + 529
        assert np.abs(y[:, late : late + 9001] - whole).max() < 1e-3
    y, notes = heard(tmp_path / "a", data + bytes(5000))
    assert y.shape[1] == count
    assert "left out: 5000 bytes behind its end" in notes


def test_what_lies_between_frames_of_mp3_is_named(tmp_path):
    data, count = frames_of(tmp_path)
    at = data.index(data[:2], len(data) // 2)
    y, notes = heard(tmp_path / "a", data[:at] + bytes(500) + data[at:])
    assert y.shape[1] == count
    assert "damaged: 500 bytes between its frames" in notes


def test_mp3s_with_tags_that_are_joined(tmp_path):
    data, count = frames_of(tmp_path)
    tag = b"TAG".ljust(128, b"\0")
    whole = made(tmp_path, "a", X, format="MP3")
    assert heard(tmp_path / "a", 3 * (ID3 + data + tag))[0].shape[1] == 3 * count
    assert heard(tmp_path / "a", 2 * (data + tag))[0].shape[1] == 2 * count
    assert heard(tmp_path / "a", 3 * (ID3 + whole + tag))[0].shape[1] == 3 * 9001
    assert heard(tmp_path / "a", data + tag + whole)[0].shape[1] == count + 9001


def test_mp3_that_says_no_delay_keeps_it(tmp_path):
    _, count = frames_of(tmp_path)
    whole = made(tmp_path, "a", X, format="MP3")
    at = whole.index(b"LAME")
    y, _ = heard(tmp_path / "a", whole[:at] + bytes(36) + whole[at + 36 :])
    assert y.shape[1] == count


def test_of_an_mp3_that_is_cut_no_padding_is_heard(tmp_path):
    whole = made(tmp_path, "a", X[:, :4], format="MP3")
    samples = heard(tmp_path / "a")[0]
    y, notes = heard(tmp_path / "a", whole[: len(whole) - 20])
    assert y.shape[1] <= 4
    assert np.array_equal(y, samples[:, : y.shape[1]])
    assert "truncated" in notes


def test_half_a_frame_of_mp3_is_not_heard(tmp_path):
    whole = made(tmp_path, "a", np.tile(X, 3), format="MP3")
    samples = heard(tmp_path / "a")[0]
    for share in (0.5, 0.61, 0.73):
        y, notes = heard(tmp_path / "a", whole[: int(len(whole) * share)])
        assert np.abs(y - samples[:, : y.shape[1]]).max() < 1e-6
        assert y.shape[1] > (share - 0.1) * samples.shape[1]
        assert "truncated" in notes


# --- Through FFmpeg -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["m4a", "mka", "avi"])
def test_a_cut_film_says_so(tmp_path, suffix):
    av = pytest.importorskip("av")
    path = tmp_path / f"a.{suffix}"
    if suffix == "avi":
        with av.open(str(path), "w") as out:
            stream = out.add_stream("pcm_s16le", rate=RATE, layout="stereo")
            frame = av.AudioFrame.from_ndarray((X.T * 9999).astype(np.int16).reshape(1, -1), "s16", "stereo")
            frame.sample_rate = RATE
            out.mux(stream.encode(frame))
    else:
        write(path, X, RATE)
    whole, notes = heard(path)
    assert notes == ""
    data = path.read_bytes()
    if suffix == "m4a":  # the table of samples at its end is needed
        return
    y, notes = heard(path, data[: len(data) * 2 // 3])
    assert 0 < y.shape[1] < whole.shape[1]
    assert "truncated" in notes


def test_small_blocks_hold_no_large_ones(tmp_path):
    pytest.importorskip("av")
    write(tmp_path / "a.m4a", X, RATE)
    with Reader(tmp_path / "a.m4a") as reader:
        for block in reader.blocks(100):
            while block.base is not None:
                block = block.base
            assert block.nbytes <= 2 * 4 * 100


def test_alac_that_libsndfile_damages_is_not_written():
    like = AudioInfo("a.caf", RATE, 2, 100, "CAF", "ALAC_24")
    assert choose_format("b.caf", like=like) == ("CAF", "PCM_24")
    with pytest.raises(AudioError, match="CAF cannot hold subtype ALAC_24"):
        choose_format("b.caf", subtype="alac_24")
