"""Channels keep their loudspeakers and their order from format to format."""

import struct

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import Reader, Writer, info, layout, read, write
from audiomask.audio.chunks import Notes, scaled
from audiomask.audio.tags import Tags

LAYOUTS = {
    "3.0": "FL FR FC",
    "2.1": "FL FR LFE",
    "quad": "FL FR BL BR",
    "quad(side)": "FL FR SL SR",
    "5.0": "FL FR FC BL BR",
    "5.1": "FL FR FC LFE BL BR",
    "5.1(side)": "FL FR FC LFE SL SR",
    "7.1": "FL FR FC LFE BL BR SL SR",
    "5.0(side)": "FL FR FC SL SR",
    "6.1": "FL FR FC LFE BC SL SR",
    "odd": "FL FR FC LFE SL SR TFL TFR",
    "left": "FL",
}
PLAYERS = ["m4a", "mov", "mka", "webm"]


def tones(channels, rate=48000):
    """Low tones, so that the low-pass of an LFE channel leaves them."""
    return 0.3 * np.sin(2 * np.pi * np.arange(1, channels + 1)[:, None] * 12 * np.arange(rate // 2) / rate)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", ["wav", "rf64", "flac", "ogg", "opus", "caf", "aiff", "w64", *PLAYERS])
def test_speakers_come_back_in_order_or_are_named(tmp_path, suffix, name):
    if suffix in PLAYERS:
        pytest.importorskip("av")
    mask, channels = layout.mask_of(LAYOUTS[name]), len(LAYOUTS[name].split())
    path, x = tmp_path / f"a.{suffix}", tones(channels).astype(np.float32)
    with Writer(path, 48000, channels, mask=mask) as writer:
        writer.write(x)
    with Reader(path) as reader:
        y = reader.read(24000)
        found = reader.info.mask
    close = np.abs(y[:, 4000:20000] @ x[:, 4000:20000].T)
    assert close.argmax(1).tolist() == list(range(channels))
    said = f"speakers {LAYOUTS[name]}" in " ".join(writer.notes)
    assert said != (layout.back(found) == layout.back(mask))
    if suffix in ("wav", "rf64", "flac", "caf", "aiff", "w64"):
        assert (found, said) == (mask, False)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", ["wav", "rf64", "flac", "caf", "aiff", "w64"])
def test_ffmpeg_reads_the_same_speakers(tmp_path, suffix, name):
    av = pytest.importorskip("av")
    channels = len(LAYOUTS[name].split())
    write(tmp_path / f"a.{suffix}", tones(channels), 48000, mask=layout.mask_of(LAYOUTS[name]))
    with av.open(str(tmp_path / f"a.{suffix}")) as file:
        found = file.streams.audio[0].codec_context.layout.channels
    assert " ".join(channel.name for channel in found) == LAYOUTS[name]


def layout_chunk(tag, bits=0, labels=()):
    entries = b"".join(struct.pack(">II12x", label, 0) for label in labels)
    return struct.pack(">3I", tag, bits, len(labels)) + entries


@pytest.mark.parametrize(
    ("chunk", "names"),
    [
        (layout_chunk(121 << 16 | 6), "FL FR FC LFE SL SR"),
        (layout_chunk(122 << 16 | 6), "FL FR SL SR FC LFE"),
        (layout_chunk(0x10000, 0x60F), "FL FR FC LFE SL SR"),
        (layout_chunk(0, labels=(3, 1, 2, 5, 6, 4)), "FC FL FR BL BR LFE"),
        (layout_chunk(0, labels=(3, 1, 2, 5, 6, 400)), ""),
        (layout_chunk(0xFFFF0006), ""),
        (layout_chunk(101 << 16 | 2), ""),  # not as many as there are channels
        (layout_chunk(0x10000, 0x3), ""),
        (b"short", ""),
    ],
)
@pytest.mark.parametrize("suffix", ["caf", "aiff"])
def test_layouts_of_core_audio(tmp_path, suffix, chunk, names):
    """By a number, by bits or by labels, and in any order."""
    path, x = tmp_path / f"a.{suffix}", tones(6).astype(np.float32)
    write(path, x, 48000)
    data = path.read_bytes()
    head = (
        struct.pack(">4sI", b"CHAN", len(chunk))
        if suffix == "aiff"
        else struct.pack(">4sq", b"chan", len(chunk))
    )
    data += head + chunk + bytes(len(chunk) % 2 * (suffix == "aiff"))
    path.write_bytes(data[:4] + struct.pack(">I", len(data) - 8) + data[8:] if suffix == "aiff" else data)
    with Reader(path) as reader:
        y, found, notes = reader.read(24000), layout.names_of(reader.info.mask), reader.notes
    assert notes == []
    order = [names.split().index(name) for name in found] if names else list(range(6))
    assert sorted(found) == sorted(names.split())
    np.testing.assert_allclose(y, x[order], atol=1e-4)


def test_the_order_of_vorbis_is_not_that_of_wav(tmp_path):
    x = tones(6).astype(np.float32)
    write(tmp_path / "a.ogg", x, 48000, mask=layout.mask_of(LAYOUTS["5.1"]))
    theirs = sf.read(tmp_path / "a.ogg", always_2d=True)[0].T
    order = np.abs(theirs[:, 4000:20000] @ x[:, 4000:20000].T).argmax(1).tolist()
    assert order == [0, 2, 1, 4, 5, 3]  # FL FC FR BL BR LFE
    assert layout.to_wav(layout.VORBIS[6].split()) == [0, 2, 1, 5, 3, 4]


def test_what_a_recorder_noted_goes_on(tmp_path):
    bext = bytes(338) + struct.pack("<Q", 48000 * 3600) + bytes(256)
    cue = struct.pack("<I", 1) + struct.pack("<II4sIII", 1, 24000, b"data", 0, 0, 24000)
    with sf.SoundFile(tmp_path / "a.wav", "w", 48000, 1) as file:
        file.title, file.artist = "Water", "A river"
        file.write(tones(1)[0])
    data = (tmp_path / "a.wav").read_bytes()
    more = b"".join(
        struct.pack("<4sI", name, len(x)) + x + bytes(len(x) % 2)
        for name, x in ((b"bext", bext), (b"cue ", cue), (b"iXML", b"<BWFXML/>"))
    )
    (tmp_path / "a.wav").write_bytes(
        data[:4] + struct.pack("<I", len(data) - 8 + len(more)) + data[8:] + more
    )
    with Reader(tmp_path / "a.wav") as reader:
        x, tags = reader.read(48000), reader.tags
    with Writer(tmp_path / "b.wav", 16000, 1, tags=tags) as writer:
        writer.write(x[:, ::3])
    assert writer.notes == []
    with Reader(tmp_path / "b.wav") as reader:
        found = reader.tags
    assert np.array_equal(read(tmp_path / "b.wav")[0], read(tmp_path / "b.wav", 0, 8000)[0])
    assert found.texts == {"title": "Water", "artist": "A river"}
    assert struct.unpack_from("<Q", found.notes.chunks[b"bext"], 338) == (16000 * 3600,)
    assert struct.unpack_from("<I", found.notes.chunks[b"cue "], 24) == (8000,)
    assert found.notes.chunks[b"iXML"] == b"<BWFXML/>"
    with Writer(tmp_path / "b.ogg", 16000, 1, tags=tags) as writer:
        writer.write(x[:, ::3])
    assert "OGG cannot hold bext, cue, iXML; left out" in writer.notes[0]
    with Reader(tmp_path / "b.ogg") as reader:
        assert reader.tags.texts == {"title": "Water", "artist": "A river"}


MARKERS = [(12000, "Refrain"), (18001, ""), (23999, "Ende \u00fc")]
BEXT = bytes(338) + struct.pack("<Q", 48000 * 3600) + bytes(256)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A WAV with markers, and AIFF and CAF that were made of it; each with what else it noted."""
    folder, x = tmp_path_factory.mktemp("marked"), tones(1)
    tags = Tags({}, Notes(chunks={b"bext": BEXT}, markers=MARKERS), 48000)
    for suffix in ("wav", "aiff", "caf"):
        with Writer(folder / f"a.{suffix}", 48000, 1, tags=tags) as writer:
            writer.write(x)
        assert ("bext" in " ".join(writer.notes)) == (suffix != "wav")
    return folder


@pytest.mark.parametrize("source", ["wav", "aiff", "caf"])
@pytest.mark.parametrize("target", ["wav", "rf64", "aiff", "caf", "w64", "flac", "ogg", "mp3", "au"])
def test_markers_go_on_or_are_named(marked, tmp_path, source, target):
    with Reader(marked / f"a.{source}") as reader:
        x, tags = reader.read(48000), reader.tags
    assert tags.notes.markers == MARKERS
    path = tmp_path / f"b.{target}"
    with Writer(path, 16000, 1, tags=tags) as writer:
        writer.write(x[:, ::3])
    with Reader(path) as reader:
        found, y = reader.tags.notes, reader.read(48000)
    said = " ".join(writer.notes)
    if target in ("wav", "rf64", "aiff", "caf"):
        assert found.markers == [(4000, "Refrain"), (6000, ""), (8000, "Ende \u00fc")]
    else:
        assert ("cue" if source == "wav" else "markers") in said
    if source == "wav":  # it has a time reference too
        kept = target in ("wav", "rf64", "w64")
        assert kept != ("bext" in said)
        assert not kept or struct.unpack_from("<Q", found.chunks[b"bext"], 338) == (16000 * 3600,)
    if target in ("wav", "rf64", "aiff", "caf", "w64", "flac", "au"):
        np.testing.assert_allclose(y, x[:, ::3], atol=1e-4)


def test_libsndfile_finds_the_markers_of_aiff_and_the_speakers_of_w64(marked, tmp_path):
    with sf.SoundFile(marked / "a.aiff") as file:
        count = sf._ffi.new("uint32_t *")
        assert sf._snd.sf_command(file._file, 0x10CD, count, 4)  # SFC_GET_CUE_COUNT
        assert count[0] == 3
    x = tones(6).astype(np.float32)
    mask = layout.mask_of(LAYOUTS["5.1(side)"])
    write(tmp_path / "a.w64", x, 48000, subtype="PCM_24", mask=mask)
    np.testing.assert_allclose(sf.read(tmp_path / "a.w64", dtype="float32")[0].T, x, atol=1e-6)
    with Writer(tmp_path / "b.w64", 48000, 6, subtype="FLOAT", mask=mask, format="W64") as writer:
        writer.write(x)
    np.testing.assert_array_equal(sf.read(tmp_path / "b.w64", dtype="float32")[0].T, x)
    assert "speakers FL FR FC LFE SL SR" in writer.notes[0]


@pytest.mark.parametrize("coding", ["pcm_f32le", "pcm_s24le", "pcm_mulaw"])
def test_extended_codings_of_w64_are_no_pcm(tmp_path, coding):
    av = pytest.importorskip("av")
    x = tones(6).astype(np.float32)
    with av.open(str(tmp_path / "a.w64"), "w") as out:
        stream = out.add_stream(coding, rate=48000, layout="5.1(side)")
        context = stream.codec_context
        frame = av.AudioFrame.from_ndarray(x.T.reshape(1, -1).copy(), format="flt", layout="5.1(side)")
        frame.sample_rate = 48000
        for part in av.AudioResampler(context.format, context.layout, 48000).resample(frame):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    y, _ = read(tmp_path / "a.w64")
    np.testing.assert_allclose(y, x, atol=0.02 if coding == "pcm_mulaw" else 1e-6)
    assert info(tmp_path / "a.w64").mask == layout.mask_of(LAYOUTS["5.1(side)"])


def test_a_stretch_has_its_own_times(marked):
    with Reader(marked / "a.wav", begin=0.3, end=0.5) as reader:
        notes = reader.tags.notes
    assert notes.markers == [(18001 - 14400, ""), (23999 - 14400, "Ende \u00fc")]
    assert struct.unpack_from("<Q", notes.chunks[b"bext"], 338) == (48000 * 3600 + 14400,)
    assert b"cue " not in notes.chunks


def chunk(name, content, order="<"):
    return struct.pack(f"{order}4sI", name, len(content)) + content + bytes(len(content) % 2)


def riff(data, more):
    return data[:4] + struct.pack("<I", len(data) - 8 + len(more)) + data[8:] + more


def test_what_cannot_be_carried_is_named(tmp_path):
    """Chunks, blocks, comments and frames that no writer here knows."""
    for suffix in ("wav", "flac", "ogg", "mp3", "aiff"):
        write(tmp_path / f"a.{suffix}", tones(1), 48000)
    data = {suffix: (tmp_path / f"a.{suffix}").read_bytes() for suffix in ("wav", "flac", "mp3", "aiff")}
    aiff = data["aiff"] + chunk(b"COMT", bytes(10), ">") + chunk(b"APPL", b"pdos", ">")
    comments = [b"TITLE=Rain", b"Composer=Bach", b"ENCODER=x"]
    vorbis = struct.pack("<II", 0, 3) + b"".join(struct.pack("<I", len(c)) + c for c in comments)
    sheet = bytes(395) + b"\1" + bytes(8) + b"\xaa" + bytes(27)  # with a lead-out
    blocks = [(4, vorbis), (6, bytes(32)), (5, sheet), (2, b"riffmore")]
    blocks = b"".join(bytes([kind]) + len(x).to_bytes(3, "big") + x for kind, x in blocks)
    frames = [(b"TIT2", b"\0Rain"), (b"APIC", bytes(30)), (b"TCOM", b"\0Bach")]
    frames = b"".join(name + len(x).to_bytes(4, "big") + b"\0\0" + x for name, x in frames)
    made = {
        "wav": riff(
            data["wav"],
            chunk(b"LIST", b"INFO" + chunk(b"IENG", b"me"))
            + chunk(b"iXML", b"<x/>")
            + chunk(b"qwer", b"1")
            + chunk(b"PEAK", bytes(16)),
        ),
        "aiff": aiff[:4] + struct.pack(">I", len(aiff) - 8) + aiff[8:],
        "flac": data["flac"][:42]
        + blocks
        + bytes([0x81, 0, 0, 0])
        + data["flac"][86:],  # behind its own comment
        "mp3": b"ID3\3\0\0\0\0" + bytes([len(frames) >> 7, len(frames) & 127]) + frames + data["mp3"],
    }
    wanted = {
        "wav": ["IENG", "qwer"],
        "aiff": ["APPL", "COMT"],
        "flac": ["COMPOSER", "application riff", "cue sheet", "picture"],
        "mp3": ["TCOM", "picture"],
    }
    for suffix, content in made.items():
        path = tmp_path / f"b.{suffix}"
        path.write_bytes(content)
        with Reader(path) as reader:
            tags, x = reader.tags, reader.read(24000)
        with Writer(tmp_path / "c.wav", 48000, 1, tags=tags, overwrite=True) as writer:
            writer.write(x)
        assert f"{', '.join(wanted[suffix])}; left out" in writer.notes[0]
        with Reader(tmp_path / "c.wav") as reader:
            assert reader.tags.notes.chunks == ({b"iXML": b"<x/>"} if suffix == "wav" else {})


@pytest.mark.parametrize(
    "texts", [{"license": "free"}, {"title": "Rain", "genre": "Weather", "copyright": "me"}]
)
@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "caf", "au", "flac", "ogg", "mp3"])
def test_texts_are_there_or_named(tmp_path, suffix, texts):
    """libsndfile takes some of them and writes none."""
    path = tmp_path / f"a.{suffix}"
    with Writer(path, 48000, 1, tags=Tags(texts)) as writer:
        writer.write(tones(1))
    with Reader(path) as reader:
        found = reader.tags.texts
    for name in texts:
        assert (name in found) != (name in " ".join(writer.notes))


def test_a_short_chunk_is_copied_as_it_is():
    assert scaled(b"bext", b"short", 2) == b"short"
