"""audiomask.runtime.codes.ecdc: EnCodec's files."""

import importlib
import io
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from audiomask.audio import AudioError
from audiomask.ports import Port
from audiomask.runtime.codes.container import NotCodesError
from audiomask.runtime.codes.ecdc import KINDS, EcdcFile, EcdcWriter, kind_of


def head(samples=640, books=2, model="encodec_24khz", lm=False, **more):
    text = json.dumps({"m": model, "al": samples, "nc": books, "lm": lm} | more).encode()
    return struct.pack("!4sBI", b"ECDC", 0, len(text)) + text


def file_of(tmp_path, data):
    path = tmp_path / "a.ecdc"
    path.write_bytes(data)
    return path


def drawn(books, frames, seed=0):
    return np.random.default_rng(seed).integers(0, 1024, (books, frames))


class Repeats:
    """A language model that expects the codes of a frame to come again."""

    books, levels = 32, 1024

    def begin(self):
        self.frames = 0

    def after(self, codes):
        assert (codes < 0).all() == (self.frames == 0)
        self.frames += 1
        found = np.full((len(codes), 1024), 0.5 / 1024, np.float32)
        found[np.arange(len(codes)), codes] += np.float32(0.5)
        return found


def written(books, pieces, samples, model="encodec_24khz", language=None):
    file = io.BytesIO()
    writer = EcdcWriter(file, model, books, language)
    for piece in pieces:
        writer.push(piece)
    writer.finish(samples)
    return file.getvalue()


def test_bytes_by_hand(tmp_path):
    """Two frames of two books: 1, 2, then 3, 1023; 10 bits each, the lowest first: 5 bytes."""
    bits = 1 | 2 << 10 | 3 << 20 | 1023 << 30
    file = EcdcFile(file_of(tmp_path, head() + bits.to_bytes(5, "little")))
    ((scale, codes),) = file.segments()
    assert scale is None
    assert codes.tolist() == [[1, 3], [2, 1023]]
    (padded,) = file.pieces()
    assert padded.shape == (32, 2)
    assert (padded[2:] == -1).all()
    assert (file.info.frames, file.info.rate, file.notes) == (640, 24000, [])


@pytest.mark.parametrize("seconds", [0.28, 0.56, 0.68, 1.0, 2.0])
def test_lengths_that_the_authors_reader_refuses(tmp_path, seconds):
    """In floats .28 * 75 is a little more than 21: one frame more than there are."""
    samples = round(24000 * seconds)
    frames = -(-samples // 320)
    codes = drawn(8, frames)
    file = EcdcFile(file_of(tmp_path, written(8, [codes[:, :5], codes[:, 5:]], samples)))
    np.testing.assert_array_equal(np.concatenate([c for _, c in file.segments()], axis=1), codes)
    assert (file.frames, file.notes) == (frames, [])


def segments(samples, books=2, language=None):
    """The bytes of a file of 48 kHz, and the scales and codes in it."""
    file, wanted = io.BytesIO(), []
    writer = EcdcWriter(file, "encodec_48khz", books, language)
    for n, at in enumerate(range(0, samples, 47520)):
        wanted.append((0.5 + n, drawn(books, -(-min(48000, samples - at) // 320), n)))
        writer.open_segment(wanted[-1][0])
        writer.push(wanted[-1][1])
        writer.close_segment()
    writer.finish(samples)
    return file.getvalue(), wanted


@pytest.mark.parametrize("language", [None, Repeats()], ids=["plain", "lm"])
@pytest.mark.parametrize("samples", [400, 47520, 47521, 48000, 100000])
def test_segments_of_the_48_khz_model(tmp_path, samples, language):
    data, wanted = segments(samples, language=language)
    read = EcdcFile(file_of(tmp_path, data))
    read.language = language
    assert (read.samples, read.held, read.notes) == (samples, samples, [])
    for (scale, codes), (theirs, given) in zip(read.segments(), wanted, strict=True):
        assert scale == theirs
        np.testing.assert_array_equal(codes, given)
    at, blocks = 0, list(read.blocks(1, {}))
    for block, (scale, given) in zip(blocks, wanted, strict=True):
        assert block["codes"].shape == (16, 150)
        np.testing.assert_array_equal(block["codes"][:2, : given.shape[1]], given)
        assert (block["codes"][2:] == -1).all()
        assert (block["codes"][:, given.shape[1] :] == -1).all()
        assert (block["scale"][0, 0], block["length"][0, 0]) == (scale, min(48000, samples - at))
        at += 47520
    assert (read.position, read.notes) == (samples, [])
    cut = EcdcFile(file_of(tmp_path, data[:-1]))
    cut.language = language
    assert sum(codes.shape[1] for _, codes in cut.segments()) == sum(c.shape[1] for _, c in wanted) - 1
    list(cut.blocks(1, {}))
    assert cut.held < samples
    assert "truncated" in cut.notes[0]


@pytest.mark.parametrize("seconds", [0.28, 1.0, 3.0])
def test_codes_by_a_language_model_are_fewer_bytes_and_come_back(tmp_path, seconds):
    samples, language = round(24000 * seconds), Repeats()
    codes = np.repeat(drawn(8, -(-samples // 3200)), 10, axis=1)[:, : -(-samples // 320)]
    data = written(8, [codes[:, :5], codes[:, 5:]], samples, language=language)
    assert len(data) < 0.5 * len(written(8, [codes], samples))
    file = EcdcFile(file_of(tmp_path, data))
    with pytest.raises(AudioError, match=r"language model; name its folder with --lm"):
        list(file.segments())
    file.language = language
    np.testing.assert_array_equal(np.concatenate([c for _, c in file.segments()], axis=1), codes)
    blocks = list(file.blocks(64, {"codes": 1}))
    np.testing.assert_array_equal(np.concatenate([b["codes"] for b in blocks], axis=1)[:8], codes)
    assert (file.position, file.notes) == (samples, [])


def test_a_promise_beyond_the_bytes_of_a_language_model_ends_with_them(tmp_path):
    language = Repeats()
    data = written(2, [drawn(2, 300)], 2**60, language=language)
    file = EcdcFile(file_of(tmp_path, data))
    file.language = language
    assert file.info.frames < 320 * (750 + 100 * len(data))
    played = sum(block["codes"].shape[1] for block in file.blocks(64, {"codes": 1}))
    assert 300 <= played < 310  # the bits that fill the last byte may tell a few more
    assert "truncated" in file.notes[0]


def test_a_cut_file_plays_what_is_there(tmp_path):
    codes = drawn(8, 750)
    data = written(8, [codes], 240000)
    file = EcdcFile(file_of(tmp_path, data[:-333]))
    got = np.concatenate([c for _, c in file.segments()], axis=1)
    np.testing.assert_array_equal(got, codes[:, : got.shape[1]])
    assert got.shape[1] == file.frames == 750 - -(-333 // 10)
    assert "truncated: its header promises 10.00 s, 9.55 s are there" in file.notes[0]


def test_samples_that_are_not_there_take_nothing(tmp_path):
    file = EcdcFile(file_of(tmp_path, head(samples=2**61) + bytes(50)))
    assert (file.frames, file.info.frames) == (20, 6400)
    assert sum(codes.shape[1] for _, codes in file.segments()) == 20


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"RIFF" + bytes(50), "is no .ecdc file"),
        (b"ECDC", "is no .ecdc file"),
        (struct.pack("!4sBI", b"ECDC", 1, 2) + b"{}", "version 1"),
        (struct.pack("!4sBI", b"ECDC", 0, 2**32 - 1) + b"{}", "4294967295 bytes"),
        (struct.pack("!4sBI", b"ECDC", 0, 4000) + b"[" * 4000, "no JSON"),
        (struct.pack("!4sBI", b"ECDC", 0, 2) + b"[]", "no object"),
        (struct.pack("!4sBI", b"ECDC", 0, 2) + b"{}", "lacks 'm'"),
        (head(model="other"), "is of 'other', none of encodec_24khz encodec_48khz"),
        (head(model=[]), "is of"),
        (head(samples=-1) + bytes(9), "it has -1 samples"),
        (head(samples=1.5), "it has 1.5 samples"),
        (head(samples=True), "it has True samples"),
        (head(books=33), "it has 33 books, of 1 to 32"),
        (head(books="2"), "it has '2' books"),
        (head(lm=0), "says 0 where it is to say whether it has a language model"),
        (head(lm=True), "holds no codes"),
        (head(), "holds no codes"),
    ],
)
def test_what_is_no_such_file(tmp_path, data, words):
    with pytest.raises(NotCodesError, match=words):
        EcdcFile(file_of(tmp_path, data))


@pytest.mark.parametrize("language", [None, Repeats()], ids=["plain", "lm"])
@pytest.mark.parametrize("rate", [24000, 48000])
def test_a_thousand_damaged_files(tmp_path, rate, language):
    from codes import damaged

    if rate == 24000:
        data = written(8, [drawn(8, 60)], 19200, language=language)
    else:
        data, _ = segments(60000, language=language)
    read = 0
    for bad in damaged(data, 1000):
        try:
            file = EcdcFile(file_of(tmp_path, bad))
        except AudioError:
            continue
        file.language = language
        given = list(file.blocks(64, {"codes": 1, "scale": 1, "length": 1}))
        assert sum(block["codes"].shape[1] for block in given) < 2000
        assert all(block["codes"].min() >= -1 and block["codes"].max() < 1024 for block in given)
        assert all(np.isfinite(block["scale"]).all() for block in given if "scale" in block)
        assert file.held <= file.samples
        read += 1
    assert read > 500


def part(rate=24000, channels=1, books=32, levels=1024, stride="1/320", segment=0):
    """What an encoder's artifact says of itself."""
    sound, codes = Port("audio", channels=channels), {"channels": books, "levels": levels, "rate": stride}
    length = [Port("length", type="int", rate="1/47520", levels=segment + 1)] if segment else []
    codes = Port("codes", type="codes", **codes)
    return SimpleNamespace(name="x", sample_rate=rate, streams=(sound, *length), outputs=(codes,))


def test_only_encodecs_codes_are_written():
    assert kind_of(part()) == "encodec_24khz"
    wide = {"rate": 48000, "channels": 2, "books": 16, "stride": "5/1584", "segment": 48000}
    assert kind_of(part(**wide)) == "encodec_48khz"
    for wrong in (
        {"rate": 16000},
        {"books": 16},
        {"levels": 512},
        {"stride": "1/160"},
        wide | {"segment": 0},
    ):
        with pytest.raises(
            AudioError, match=r"x: an \.ecdc file holds codes of EnCodec at 24 or 48 kHz only"
        ):
            kind_of(part(**wrong))
    for books, language in ((33, None), (32, SimpleNamespace(books=16))):
        with pytest.raises(ValueError, match=f"{books} books are outside 1 to"):
            EcdcWriter(io.BytesIO(), "encodec_24khz", books, language)


@pytest.fixture(scope="module")
def theirs():
    """The authors' package, with a model of random weights."""
    torch = pytest.importorskip("torch")
    importlib.import_module("audiomask.frontend.torchaudio_import")  # the package imports torchaudio
    encodec = pytest.importorskip("encodec")
    torch.manual_seed(0)
    model = encodec.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.name = "encodec_24khz"  # which only the published weights have
    module = importlib.import_module("encodec.compress")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.MODELS, model.name, lambda: model)
        yield SimpleNamespace(model=model, compress=module.compress, decompress=module.decompress)


@pytest.mark.peer
@pytest.mark.parametrize(("samples", "bandwidth"), [(320, 24.0), (6720, 1.5), (8001, 6.0)])
def test_the_authors_package_reads_and_writes_the_same(tmp_path, theirs, samples, bandwidth):
    """Their bytes are read as their codes, and ours are read by them; .28 s (6720) by us alone."""
    import torch

    theirs.model.set_target_bandwidth(bandwidth)
    wav = 0.1 * torch.randn(1, samples)
    with torch.no_grad():
        encoded = theirs.model.encode(wav[None])
        sound = theirs.model.decode(encoded)[0, :, :samples]
    codes = encoded[0][0][0].numpy()
    file = EcdcFile(file_of(tmp_path, theirs.compress(theirs.model, wav, use_lm=False)))
    np.testing.assert_array_equal(np.concatenate([c for _, c in file.segments()], axis=1), codes)
    assert (file.model, file.samples, file.books) == ("encodec_24khz", samples, len(codes))
    assert KINDS[file.model].rate == theirs.model.sample_rate
    ours = written(len(codes), [codes], samples)
    if samples == 6720:
        with pytest.raises(EOFError):
            theirs.decompress(ours)
    else:
        assert torch.equal(theirs.decompress(ours)[0], sound)
