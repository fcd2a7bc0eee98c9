"""audiomask.runtime.codes.ecdc: EnCodec's files."""

import importlib
import io
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from audiomask.audio import AudioError
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


def written(books, pieces, samples, model="encodec_24khz"):
    file = io.BytesIO()
    writer = EcdcWriter(file, model, books)
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


@pytest.mark.parametrize("samples", [400, 47520, 47521, 48000, 100000])
def test_segments_of_the_48_khz_model(tmp_path, samples):
    file, wanted = io.BytesIO(), []
    writer = EcdcWriter(file, "encodec_48khz", 2)
    for n, at in enumerate(range(0, samples, 47520)):
        wanted.append((0.5 + n, drawn(2, -(-min(48000, samples - at) // 320), n)))
        writer.open_segment(wanted[-1][0])
        writer.push(wanted[-1][1])
        writer.close_segment()
    writer.finish(samples)
    data = file.getvalue()
    read = EcdcFile(file_of(tmp_path, data))
    assert (read.samples, read.held, read.notes) == (samples, samples, [])
    for (scale, codes), (theirs, given) in zip(read.segments(), wanted, strict=True):
        assert scale == theirs
        np.testing.assert_array_equal(codes, given)
    cut = EcdcFile(file_of(tmp_path, data[:-1]))
    assert cut.held < samples
    assert sum(codes.shape[1] for _, codes in cut.segments()) == sum(c.shape[1] for _, c in wanted) - 1


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
        (head(lm=True), "language model"),
        (head(lm=0), "language model"),
        (head(), "holds no codes"),
    ],
)
def test_what_is_no_such_file(tmp_path, data, words):
    with pytest.raises(NotCodesError, match=words):
        EcdcFile(file_of(tmp_path, data))


def test_a_thousand_damaged_files(tmp_path):
    from codes import damaged

    codes = drawn(8, 150)
    data = written(8, [codes], 48000)
    read = 0
    for bad in damaged(data, 1000):
        try:
            file = EcdcFile(file_of(tmp_path, bad))
        except AudioError:
            continue
        assert sum(c.shape[1] for _, c in file.segments()) == file.frames < 1000
        read += 1
    assert read > 500


def test_only_encodecs_codes_are_written():
    facts = {"clock": 24000, "stride": 320, "levels": 1024, "books": 32, "model": "x"}
    assert kind_of(facts) == "encodec_24khz"
    with pytest.raises(AudioError, match=r"x: an \.ecdc file holds codes of EnCodec at 24 kHz only"):
        kind_of(facts | {"clock": 16000})
    with pytest.raises(ValueError, match="33 books are outside 1 to 32"):
        EcdcWriter(io.BytesIO(), "encodec_24khz", 33)


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
