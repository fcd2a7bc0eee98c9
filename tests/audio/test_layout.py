"""Channels keep their loudspeakers and their order from format to format."""

import struct

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import Reader, Writer, layout, read, write
from audiomask.audio.tags import scaled

LAYOUTS = {
    "3.0": "FL FR FC",
    "2.1": "FL FR LFE",
    "quad": "FL FR BL BR",
    "quad(side)": "FL FR SL SR",
    "5.0": "FL FR FC BL BR",
    "5.1": "FL FR FC LFE BL BR",
    "5.1(side)": "FL FR FC LFE SL SR",
    "7.1": "FL FR FC LFE BL BR SL SR",
}


def tones(channels, rate=48000):
    """Low tones, so that the low-pass of an LFE channel leaves them."""
    return 0.3 * np.sin(2 * np.pi * np.arange(1, channels + 1)[:, None] * 12 * np.arange(rate // 2) / rate)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", ["wav", "rf64", "flac", "ogg", "opus", "caf", "aiff", "w64"])
def test_speakers_come_back_in_order_or_are_named(tmp_path, suffix, name):
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
    assert said or found in (mask, layout.back(mask))
    if suffix in ("wav", "rf64", "flac"):
        assert (found, said) == (mask, False)


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
    assert struct.unpack_from("<Q", found.chunks[b"bext"], 338) == (16000 * 3600,)
    assert struct.unpack_from("<I", found.chunks[b"cue "], 24) == (8000,)
    assert found.chunks[b"iXML"] == b"<BWFXML/>"
    with Writer(tmp_path / "b.ogg", 16000, 1, tags=tags) as writer:
        writer.write(x[:, ::3])
    assert "OGG cannot hold bext, cue, iXML; left out" in writer.notes[0]
    with Reader(tmp_path / "b.ogg") as reader:
        assert reader.tags.texts == {"title": "Water", "artist": "A river"}


def test_a_short_chunk_is_copied_as_it_is():
    assert scaled(b"bext", b"short", 2) == b"short"
