"""What phones and meetings record: read in time, and written back with the picture untouched."""

import sys
from fractions import Fraction

import numpy as np
import pytest

from audiomask.audio import AudioError, Reader, Writer, info, read, write
from audiomask.audio.chunks import Notes
from audiomask.audio.media import in_order
from audiomask.audio.tags import Tags

av = pytest.importorskip("av")
RATE = 48000
T = np.arange(2 * RATE) / RATE
X = np.stack([0.3 * np.sin(2 * np.pi * (300 + 200 * np.sin(2 * T)) * T), 0.2 * np.sin(2 * np.pi * 500 * T)])
X = X.astype(np.float32)


def film(path, container, coding, late=0, pictures=True):
    """Write `X`, whose first sample is `late` samples after the first picture."""
    with av.open(str(path), "w", format=container) as out:
        if pictures:
            video = out.add_stream("mpeg4", rate=25)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        sound = out.add_stream(coding, rate=RATE, layout="stereo")
        sound.codec_context.open()  # Ogg wants its header first
        out.metadata["title"] = "A walk"
        context = sound.codec_context
        convert = av.AudioResampler(context.format, "stereo", RATE, context.frame_size or None)
        for i in range(50):
            if pictures:
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 5 * i, np.uint8), format="rgb24")
                picture.pts, picture.time_base = i, Fraction(1, 25)
                out.mux(video.encode(picture))
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(X[:, 1920 * i : 1920 * (i + 1)]), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.pts, frame.time_base = RATE, 1920 * i + late, Fraction(1, RATE)
            for part in convert.resample(frame):
                out.mux(sound.encode(part))
        for part in convert.resample(None):
            out.mux(sound.encode(part))
        out.mux(sound.encode(None))
        if pictures:
            out.mux(video.encode(None))
    return path


def begin(path):
    """The time of the first sample."""
    with av.open(str(path)) as file:
        frame = next(file.decode(audio=0))
        return float(frame.pts * frame.time_base)


KINDS = {
    "oga": ("ogg", "flac"),
    "avi": ("avi", "pcm_s16le"),
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "mov": ("mov", "alac"),
    "mkv": ("matroska", "libopus"),
    "mka": ("matroska", "flac"),
    "webm": ("webm", "libopus"),
}


@pytest.mark.parametrize("suffix", KINDS)
def test_sound_is_read_without_the_delay_of_its_coding(tmp_path, suffix):
    path = film(tmp_path / f"a.{suffix}", *KINDS[suffix], pictures=False)
    y, rate = read(path)
    assert rate == RATE
    assert y.shape[1] >= 2 * RATE
    error = np.abs(y[:, 4000:90000] - X[:, 4000:90000]).mean()
    assert error < 0.02
    assert all(error < np.abs(y[:, 4000:90000] - X[:, 4000 + n : 90000 + n]).mean() for n in (-16, 16))
    parts = read(path, 5000, 3000)[0]
    assert np.array_equal(parts, y[:, 5000:8000])


@pytest.mark.parametrize("late", [0, 9600])
@pytest.mark.parametrize(("suffix", "coding"), [("mp4", "aac"), ("mkv", "libopus"), ("mov", "alac")])
def test_the_sound_of_a_film_is_replaced_in_time(tmp_path, suffix, coding, late):
    container = {"mkv": "matroska"}.get(suffix, suffix)
    path, clean = film(tmp_path / f"a.{suffix}", container, coding, late), tmp_path / f"b.{suffix}"
    with Reader(path) as reader, Writer(clean, RATE, 2, tags=reader.tags) as writer:
        for block in reader.blocks():
            writer.write(0.5 * block)
    assert writer.notes == []
    with av.open(str(path)) as a, av.open(str(clean)) as b:
        assert b.metadata["title"] == "A walk"
        pictures = [[(p.dts * p.time_base, bytes(p)) for p in f.demux(video=0) if p.size] for f in (a, b)]
    assert len(pictures[0]) == 50
    assert pictures[0] == pictures[1]
    y, z = read(path)[0], read(clean)[0]
    shift = round((begin(path) - begin(clean)) * RATE)
    error = np.abs(z[:, 4000 + shift : 90000 + shift] - 0.5 * y[:, 4000:90000]).mean()
    assert error < 0.01
    for n in (-16, 16):
        assert error < np.abs(z[:, 4000 + shift + n : 90000 + shift + n] - 0.5 * y[:, 4000:90000]).mean()


def test_pictures_of_joined_films_are_named(tmp_path):
    """The sound of all becomes one file, in which the pictures of the first would end early."""
    data = film(tmp_path / "a.mp4", "mp4", "aac").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data + data)
    with Reader(tmp_path / "a.mp4") as one, Reader(tmp_path / "b.mp4") as two:
        assert one.tags.source is not None
        assert "pictures" not in one.tags.lost("MEDIA")
        assert two.tags.source is None
        assert "pictures" in two.tags.lost("MEDIA")


def test_sound_alone_becomes_a_phone_file(tmp_path):
    write(tmp_path / "a.m4a", X, RATE)
    assert info(tmp_path / "a.m4a").channels == 2
    assert np.abs(read(tmp_path / "a.m4a")[0][:, 4000:90000] - X[:, 4000:90000]).mean() < 0.01


def test_a_half_file_a_film_without_sound_and_none_at_all(tmp_path):
    path = film(tmp_path / "a.mkv", "matroska", "libopus", pictures=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert read(path)[0].shape[1] > RATE // 2
    mute = tmp_path / "mute.mp4"
    with av.open(str(mute), "w") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        out.mux(video.encode(None))
    with pytest.raises(AudioError, match=r"mute\.mp4: .*it has no sound"):
        read(mute)
    (tmp_path / "no.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(500))
    with pytest.raises(AudioError, match=r"no\.mp4: not audio that libsndfile or FFmpeg can read"):
        read(tmp_path / "no.mp4")


def test_without_the_extra_its_command_is_named(tmp_path, monkeypatch):
    path = film(tmp_path / "a.m4a", "ipod", "aac", pictures=False)
    monkeypatch.setitem(sys.modules, "av", None)
    for do in (lambda: read(path), lambda: write(tmp_path / "b.m4a", X, RATE)):
        with pytest.raises(AudioError, match=r"pip install 'audiomask\[media\]'"):
            do()
    assert not (tmp_path / "b.m4a").exists()


def test_eight_channels(tmp_path):
    x = 0.1 * np.sin(np.arange(1, 9)[:, None] * 0.01 * np.arange(RATE)).astype(np.float32)
    write(tmp_path / "a.mka", x, RATE)
    assert read(tmp_path / "a.mka")[0].shape[0] == 8


def test_a_play_list_opens_nothing(tmp_path):
    film(tmp_path / "a.m4a", "ipod", "aac", pictures=False)
    for name, text in {
        "list.mp3": f"#EXTM3U\n#EXTINF:2,\n{tmp_path}/a.m4a\n#EXT-X-ENDLIST\n",
        "list.wav": f"ffconcat version 1.0\nfile '{tmp_path}/a.m4a'\n",
        "text.m4a": "not audio at all, just text",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="not audio that libsndfile or FFmpeg can read"):
            read(tmp_path / name)


def test_what_a_recording_says_goes_into_a_phone_file_or_is_named(tmp_path):
    tags = Tags(
        {"title": "Rain", "artist": "A roof", "tracknumber": "3"}, Notes(chunks={b"bext": bytes(700)}), RATE
    )
    for suffix, lost in (("m4a", "bext"), ("mka", "bext"), ("aac", "bext, title, artist, tracknumber")):
        with Writer(tmp_path / f"a.{suffix}", RATE, 2, tags=tags) as writer:
            writer.write(X)
        assert writer.notes == [f"{tmp_path}/a.{suffix}: .{suffix} cannot hold {lost}; left out"]
        with Reader(tmp_path / f"a.{suffix}") as reader:
            assert reader.tags.texts == ({} if suffix == "aac" else tags.texts)


def test_sound_that_no_encoder_takes_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(AudioError, match=r"a\.m4a: 40 channels at 48000 Hz cannot be encoded .* -o out\.wav"):
        write(tmp_path / "a.m4a", np.zeros((40, 4800), np.float32), RATE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["mkv", "mp4"])
@pytest.mark.parametrize("target", ["mkv", "mp4", "wav"])
def test_chapters_and_other_texts_are_kept_or_named(tmp_path, source, target):
    said = {"title": "A walk", "composer": "Nobody", "SHOE_SIZE": "43"}
    millisecond = Fraction(1, 1000)
    chapters = [
        {
            "id": n,
            "start": 1000 * n,
            "end": 1000 * n + 1000,
            "time_base": millisecond,
            "metadata": {"title": t},
        }
        for n, t in enumerate(("Uphill", "Downhill"))
    ]
    source = tmp_path / f"a.{source}"
    with av.open(str(source), "w") as out:
        out.metadata.update(said)
        out.set_chapters(chapters)
        stream = out.add_stream("alac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((X[:1] * 2**15).astype(np.int16), format="s16p", layout="mono")
        frame.sample_rate = RATE
        for part in av.AudioResampler("s16p", "mono", RATE, 4096).resample(frame):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    path = tmp_path / f"b.{target}"
    with Reader(source) as reader, Writer(path, RATE, 1, tags=reader.tags) as writer:
        for block in reader.blocks():
            writer.write(block)
    notes = writer.notes[0].partition("cannot hold")[2] if writer.notes else ""
    named = {"mkv": [], "mp4": ["shoe_size"], "wav": ["composer", "shoe_size", "chapters"]}[target]
    if source.suffix == ".mp4":  # which did not take it
        named = [name for name in named if name != "shoe_size"]
    assert [name for name in ("composer", "shoe_size", "chapters") if name in notes] == named
    if target != "wav":
        with av.open(str(path)) as file:
            found = [(c["metadata"]["title"], c["start"] * c["time_base"]) for c in file.chapters()]
            assert found == [("Uphill", 0), ("Downhill", 1)]
            assert {key.lower(): text for key, text in file.metadata.items()}["composer"] == "Nobody"


def test_only_channels_in_the_order_of_wav_are_decoded():
    """PyAV 18.1 frees the memory of other layouts twice, so they are refused."""
    assert in_order(["FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"])
    assert in_order(["NONE"] * 6)
    assert in_order(["FL", "FR", "WL", "WR"])
    assert not in_order(["FL", "FR", "SL", "SR", "FC", "LFE"])
    assert not in_order(["FL", "FL"])
