"""audiomask encode, decode and codec: files there and back, and what happens to them on the way."""

import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import codec_pair
import likely
import numpy as np
import pytest
import small_artifacts
import soundfile as sf
from codes import damaged, drawn, packed

from audiomask import Player
from audiomask.audio import AudioError, read
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import codec_hash, codec_part
from audiomask.runtime.codes.container import MARK, Packet, Unpacker
from audiomask.runtime.codes.files import AmkFile
from audiomask.runtime.files.coded import header_of

PLAIN = ("--kbps", "1.2")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return codec_pair.build(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def another(tiny, tmp_path_factory):
    """A codec whose parts say that they are of another network."""
    return codec_pair.renamed(tiny, tmp_path_factory.mktemp("another"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wav(path, samples=16000, rate=16000, channels=1, seed=0, subtype="PCM_16"):
    x = 0.1 * np.random.default_rng(seed).standard_normal((samples, channels))
    sf.write(path, x, rate, subtype=subtype)
    return x.T.astype(np.float32)


def codes_of(path):
    with AmkFile(path) as file:
        blocks = list(file.blocks(64, {"codes": 1, "lost": 1}))
    return np.concatenate([b["codes"] for b in blocks], axis=1)


@pytest.mark.parametrize(
    ("name", "samples", "rate", "channels"),
    [
        ("a.wav", 16000, 16000, 1), ("a.flac", 44117, 44100, 2), ("a.wav", 1, 8000, 1),
        ("a.ogg", 7001, 48000, 3), ("a.wav", 319, 16000, 1), ("a.wav", 321, 22050, 1),
    ],
)  # fmt: skip
def test_rate_channels_and_length_come_back(here, cli, tiny, name, samples, rate, channels):
    subtype = {"flac": "PCM_16", "ogg": "VORBIS", "wav": "PCM_16"}[name[2:]]
    wav(name, samples, rate, channels, subtype=subtype)
    done = cli("encode", name, "-m", tiny, *PLAIN)
    assert done.code == 0, done.err
    done = cli("decode", "a.amk", "-m", tiny)
    assert done.code == 0, done.err
    about = sf.info("a_decoded.wav")
    assert (about.frames, about.samplerate, about.channels) == (samples, rate, channels)


@pytest.mark.parametrize("books", [1, 4, 6])
def test_a_file_holds_the_codes_of_the_encoder_and_sounds_like_them(here, cli, tiny, books):
    x = wav("a.wav", 20001, channels=2, subtype="FLOAT")
    assert cli("encode", "a.wav", "-m", tiny, "--kbps", f"{books * 0.2:g}", "-o", "b.amk").code == 0
    player = Player(f"{tiny}_enc.onnx", channels=2, controls={"books": books})
    codes = np.concatenate([player.feed(x)["codes"], player.flush()["codes"]], axis=1)
    np.testing.assert_array_equal(codes_of("b.amk"), codes)
    assert cli("decode", "b.amk", "-m", tiny, "-o", "b.wav", "--subtype", "FLOAT").code == 0
    player = Player(f"{tiny}_dec.onnx", channels=12)
    y = np.concatenate([player.feed(codes)["decoded"], player.flush()["decoded"]], axis=1)
    np.testing.assert_allclose(read("b.wav")[0], y[:, :20001], atol=1e-6)


def test_silence_and_what_is_no_number(here, cli, tiny):
    sf.write("silent.wav", np.zeros(5000), 16000)
    x = np.zeros(5000, np.float32)
    x[100] = np.nan
    sf.write("nan.wav", x, 16000, subtype="FLOAT")
    done = cli("codec", "silent.wav", "nan.wav", "-m", tiny, *PLAIN, "-o", "out/")
    assert done.code == 0
    assert "nan.wav: 1 samples were NaN or infinite and were set to 0" in done.err
    np.testing.assert_array_equal(read("out/silent.wav")[0], read("out/nan.wav")[0])
    (here / "empty.wav").touch()
    done = cli("encode", "empty.wav", "-m", tiny, *PLAIN)
    assert (done.code, "empty.wav: is empty (0 bytes)" in done.err) == (1, True)


def test_folders_lists_and_what_exists(here, cli, tiny):
    for n, name in enumerate(("in/a.wav", "in/deep/b.flac")):
        (here / name).parent.mkdir(exist_ok=True, parents=True)
        wav(name, 4000 + n)
    (here / "wav.scp").write_text("one in/a.wav\ntwo in/deep/b.flac\n")
    assert cli("encode", "in", "-m", tiny, *PLAIN, "-o", "coded/", "-j", "2").code == 0
    assert cli("encode", "in/*.wav", "wav.scp", "-m", tiny, *PLAIN, "-o", "listed/").code == 0
    assert (here / "listed/codes.scp").read_text() == "one listed/one.amk\ntwo listed/two.amk\n"
    assert cli("decode", "coded", "-m", tiny, "-o", "back/").code == 0
    assert cli("decode", "listed/codes.scp", "-m", tiny, "-o", "again/").code == 0
    for one, two in (("back/a.wav", "again/one.wav"), ("back/deep/b.wav", "again/two.wav")):
        np.testing.assert_array_equal(read(one)[0], read(two)[0])
    done = cli("decode", "coded", "-m", tiny, "-o", "back/")
    assert (done.code, "exists already; give -f" in done.err) == (1, True)
    assert cli("decode", "coded", "-m", tiny, "-o", "back/", "-f").code == 0
    done = cli("encode", "in/a.wav", "listed/one.amk", "-m", tiny, *PLAIN, "-o", "x/")
    assert (done.code, (here / "x/a.amk").exists()) == (1, True)


def test_there_and_back_says_what_it_costs(here, cli, tiny):
    wav("a.wav", 48000)
    done = cli("codec", "a.wav", "-m", tiny, *PLAIN, "-o", "b.wav")
    assert done.code == 0
    assert cli("encode", "a.wav", "-m", tiny, *PLAIN).code == 0
    size = (here / "a.amk").stat().st_size
    assert size == 450 + 14 * 6 + 38 + 66
    assert re.search(rf"a\.wav +3\.00 +{size} +{size * 8 / 3000:.2f} +", done.out)
    assert f"{size} bytes, {size * 8 / 3000:.2f} kbit/s with headers and index" in done.err
    assert cli("decode", "a.amk", "-m", tiny, "-o", "c.wav").code == 0
    np.testing.assert_array_equal(read("b.wav")[0], read("c.wav")[0])
    assert cli("codec", "a.wav", "-m", tiny, *PLAIN, "-o", "-").code == 0


def test_losses_are_concealed_by_the_decoder(here, cli, tiny):
    wav("a.wav", 16000)
    (here / "trace.txt").write_text("".join(f"{int(10 <= n < 15)}\n" for n in range(50)))
    assert cli("encode", "a.wav", "-m", tiny, *PLAIN).code == 0
    how = ("-m", tiny, "--subtype", "FLOAT")
    assert cli("decode", "a.amk", *how, "-o", "lossy.wav", "--loss", "trace.txt").code == 0
    codes, lost = codes_of("a.amk"), np.zeros((1, 50), np.float32)
    lost[:, 10:15] = 1
    player = Player(f"{tiny}_dec.onnx")
    y = np.concatenate(
        [player.feed(np.where(lost > 0, -1, codes), lost)["decoded"], player.flush()["decoded"]], 1
    )
    np.testing.assert_allclose(read("lossy.wav")[0], y, atol=1e-6)
    assert cli("codec", "a.wav", *how, *PLAIN, "-o", "there.wav", "--loss", "trace.txt").code == 0
    np.testing.assert_array_equal(read("there.wav")[0], read("lossy.wav")[0])
    done = cli("decode", "a.amk", "-m", tiny, "-o", "x.wav", "--loss", "gilbert:2,0")
    assert done.code == 2


def test_a_codec_is_found_by_its_stem_by_a_part_and_by_a_folder(here, cli, tiny, another):
    for part in ("enc", "dec"):
        for name in (tiny, f"{tiny}_enc.onnx", f"{tiny}_dec.onnx", f"{tiny}.onnx", tiny.parent):
            assert codec_part(name, part).path.name == f"tiny_{part}.onnx"
        with pytest.raises(AudioError, match=f"there is no nobody_{part}.onnx, and no such codec ships"):
            codec_part("nobody", part)
    lone = here / "lone_enc.onnx"
    lone.write_bytes((tiny.parent / "tiny_enc.onnx").read_bytes().replace(b'"parts"', b'"other"'))
    with pytest.raises(AudioError, match="does not say which other part it belongs to"):
        codec_part(lone, "enc")
    shutil.copy(f"{tiny}_dec.onnx", "odd_enc.onnx")
    with pytest.raises(AudioError, match="its task is decode, and a part to encode is wanted"):
        codec_part("odd", "enc")


def test_the_wrong_codec_is_refused(here, cli, tiny, another):
    wav("a.wav")
    assert cli("encode", "a.wav", "-m", tiny, *PLAIN).code == 0
    done = cli("decode", "a.amk", "-m", another, "-o", "b.wav")
    assert done.code == 1
    assert re.search(r"a\.amk: was made by gist \(\w{16}\), and gist \(\w{16}\) is another codec", done.err)
    assert not (here / "b.wav").exists()


@pytest.mark.parametrize(
    "changes", [{"stride": 1}, {"clock": 48000}, {"books": 7}, {"levels": 17}, {"channels": 2}]
)
def test_headers_made_by_hand(here, cli, tiny, changes):
    header = replace(header_of(codec_part(tiny, "enc"), 16000, 1), **changes)
    (here / "a.amk").write_bytes(packed(drawn(header, 20, books=2), header))
    done = cli("decode", "a.amk", "-m", tiny, "-o", "b.wav")
    assert (done.code, "a.amk: its header does not fit gist" in done.err) == (1, True)


@pytest.fixture
def likely_pair(tiny, tmp_path_factory):
    """The codec with probabilities of its codes."""
    folder = tmp_path_factory.mktemp("likely")
    for part in ("enc", "dec"):
        shutil.copy(f"{tiny}_{part}.onnx", folder)
    encoder = codec_part(folder, "enc")
    hash, file = codec_hash(encoder), folder / "tiny_prob.safetensors"
    return folder / "tiny", likely.write(file, hash, name="gist", score=np.zeros((6, 16, 8), np.int8))


def test_probabilities_are_taken_where_they_lie(here, cli, tiny, likely_pair):
    pair, odds = likely_pair
    wav("a.wav", 40000)
    assert "gist has no probabilities; its codes are packed" in cli("encode", "a.wav", "-m", tiny, *PLAIN).err
    shutil.move("a.amk", "plain.amk")
    assert "no probabilities" not in cli("encode", "a.wav", "-m", pair, *PLAIN).err
    assert (
        "no probabilities"
        not in cli("encode", "a.wav", "-m", tiny, *PLAIN, "--plain", "-f", "-o", "p.amk").err
    )
    assert (here / "p.amk").read_bytes() == (here / "plain.amk").read_bytes()
    with AmkFile("a.amk") as file:
        assert (file.header.coder, file.header.probabilities) == (1, odds.hash)
    for name in ("a", "plain"):
        assert cli("decode", f"{name}.amk", "-m", pair, "-o", f"{name}_back.wav").code == 0
    assert (here / "a_back.wav").read_bytes() == (here / "plain_back.wav").read_bytes()
    for words in (["codec", "a.wav"], ["codec", "a.wav", "--plain"]):
        assert cli(*words, "-m", pair, *PLAIN, "-f", "-o", "c.wav").code == 0
        assert (here / "c.wav").read_bytes() == (here / "a_back.wav").read_bytes()


def test_probabilities_that_are_missing_or_others_are_an_error(here, cli, tiny, likely_pair):
    """Never is anything taken in their place."""
    pair, odds = likely_pair
    wav("a.wav")
    assert cli("encode", "a.wav", "-m", pair, *PLAIN).code == 0
    done = cli("decode", "a.amk", "-m", tiny, "-o", "b.wav")
    assert done.code == 1
    assert (
        f"tiny_prob.safetensors: is missing, and packets were coded by the probabilities {odds.hash.hex()}"
        in done.err
    )
    codec = codec_hash(codec_part(pair, "enc"))
    likely.write(f"{pair}_prob.safetensors", codec, seed=1)
    done = cli("decode", "a.amk", "-m", pair, "-o", "b.wav")
    assert (done.code, "and packets were coded by" in done.err) == (1, True)
    likely.write(f"{pair}_prob.safetensors", codec, books=3)
    done = cli("encode", "a.wav", "-m", pair, *PLAIN, "-f")
    assert (done.code, "are of 3 books of 16 codes, and 6 of 16 are coded" in done.err) == (1, True)
    likely.write(f"{pair}_prob.safetensors", bytes(8))
    done = cli("encode", "a.wav", "-m", pair, *PLAIN, "-f")
    assert (done.code, "is of another codec" in done.err) == (1, True)
    assert cli("encode", "a.wav", "-m", pair, *PLAIN, "--plain", "-f").code == 0
    with open(f"{pair}_prob.safetensors", "wb") as file:  # noqa: PTH123
        file.write(b"nothing")
    done = cli("encode", "a.wav", "-m", pair, *PLAIN, "-f")
    assert (done.code, "holds no probabilities of codes" in done.err) == (1, True)
    assert not (here / "b.wav").exists()


def test_packets_by_probabilities_go_through_pipes(here, likely_pair):
    pair, odds = likely_pair
    x = (2000 * np.random.default_rng(0).standard_normal(30000)).astype("<i2").tobytes()
    run = partial(subprocess.run, capture_output=True, check=True)
    words = [sys.executable, "-m", "audiomask"]
    encode = [*words, "encode", "-", "-m", str(pair), *PLAIN, "--raw", "s16le", "--frames-per-packet", "1"]
    decode = [*words, "decode", "-", "-m", str(pair), "--raw", "s16le"]
    likely_bytes = run(encode, input=x).stdout
    plain_bytes = run([*encode, "--plain"], input=x).stdout
    header = next(iter(Unpacker().push(likely_bytes)))
    assert (header.coder, header.probabilities) == (1, odds.hash)
    sounds = [run(decode, input=data).stdout for data in (likely_bytes, plain_bytes)]
    assert sounds[0] == sounds[1]
    assert len(sounds[0]) == 60000


def test_without_a_name_the_shipped_codec_is_taken_that_a_file_names(here, cli, tiny, another, monkeypatch):
    from audiomask.runtime import catalogue
    from audiomask.runtime.files import coded

    shipped = here / "shipped"
    shipped.mkdir()
    for part in ("enc", "dec"):
        shutil.copy(f"{tiny}_{part}.onnx", shipped / f"gist_{part}.onnx")
    for module in (catalogue, coded):
        monkeypatch.setattr(module, "PRETRAINED", shipped)
    wav("a.wav")
    assert cli("codec", "a.wav", *PLAIN, "-o", "b.wav").code == 0
    assert cli("encode", "a.wav", *PLAIN, "-m", "gist").code == 0
    assert cli("decode", "a.amk", "-o", "c.wav").code == 0
    assert cli("encode", "a.wav", "-m", another, *PLAIN, "-f").code == 0
    assert "was made by gist" in cli("decode", "a.amk", "-o", "d.wav").err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["encode", "a.wav", "--kbps", "1.1"], 2, "--kbps 1.1: gist has 0.2 to 1.2 kbit/s in steps of 0.2"),
        (["codec", "a.wav", "--kbps", "6"], 2, "gist has 0.2 to 1.2 kbit/s in steps of 0.2, such as 1.2"),
        (["encode", "a.wav", "--kbps", "0"], 2, "outside 0 to 1000"),
        (["encode", "a.wav", "--rate", "8000", *PLAIN], 2, "--rate: is of bare samples; give --raw"),
        (["encode", "a.wav", "--raw", "s16le", *PLAIN], 2, "--raw: is for standard input and output"),
        (["decode", "a.amk", "--raw", "s16le"], 2, "--raw: is for standard input and output"),
        (["decode", "a.wav", "--jitter", "20"], 2, "--jitter 20: is for live packets"),
        (["decode", "a.wav", "-o", "b.wav"], 1, "a.wav: is no .amk file; make one with: audiomask encode"),
        (["decode", "no.amk", "-o", "b.wav"], 1, "no.amk: no such file"),
        (["encode", "a.wav", "-o", "a.ecdc", *PLAIN], 1, "holds codes of EnCodec at 24 or 48 kHz only"),
        (["encode", "a.wav", "--frames-per-packet", "0", *PLAIN], 2, "outside 1 to 255"),
        (["encode", "a.wav", "--lm", "--kbps", "1.2"], 2, "--lm: is for .ecdc files; name one with -o"),
        (["encode", "-", "--raw", "s16le", "--lm", *PLAIN], 2, "leave out --format, --lm and --ray"),
        (["encode", "a.wav", "-o", "b.ecdc", "--plain", *PLAIN], 2, "--plain: is of .amk packets"),
        (
            ["encode", "a.wav", "-o", "b.ecdc", "--frames-per-packet", "2", *PLAIN],
            2,
            "--frames-per-packet: is of .amk packets",
        ),
        (["encode", "a.wav", "-o", "b.flac", *PLAIN], 2, "-o b.flac: codes go into .amk or .ecdc"),
        (["encode", "a.wav", "-o", "b.ecdc", "--format", "amk", *PLAIN], 2, "-o b.ecdc: codes go into"),
        (["decode", "a.amk", "-o", "b.amk"], 2, "-o b.amk: is sound, such as out.wav"),
    ],
)
def test_errors_say_what_would_do(here, cli, tiny, words, code, text):
    wav("a.wav")
    done = cli(*words, "-m", tiny)
    assert done.code == code
    assert text in done.err
    assert not list(here.glob(".*")), "nothing is left behind"


def test_damaged_files_of_a_batch(here, cli, tiny):
    """What is whole comes out, with a warning; what is no file is an error, and the others go on."""
    wav("a.wav", 16000)
    assert cli("encode", "a.wav", "-m", tiny, *PLAIN, "--frames-per-packet", "2").code == 0
    (here / "bad").mkdir()
    files = list(damaged((here / "a.amk").read_bytes(), 60))
    for n, data in enumerate(files):
        (here / f"bad/{n:02d}.amk").write_bytes(data or b"\0")
    done = cli("decode", "bad", "-m", tiny, "-o", "out/", "-j", "1", "-q")
    read_ = {path.stem for path in (here / "out").glob("*.wav")}
    refused = set(re.findall(r"error: bad/(\d\d)\.amk", done.err))
    assert len(read_) > 40
    assert read_ | refused == {f"{n:02d}" for n in range(60)}
    assert done.code == int(bool(refused))
    assert "were concealed" in done.err


def test_ecdc_needs_its_codec(here, cli, tiny):
    from audiomask.runtime.codes.ecdc import EcdcWriter

    for model in ("encodec_24khz", "encodec_48khz"):
        with (here / f"{model}.ecdc").open("wb") as file:
            writer = EcdcWriter(file, model, 2)
            writer.push(np.zeros((2, 30), np.int64))
            writer.finish(9000)
    done = cli("decode", "encodec_24khz.ecdc", "encodec_48khz.ecdc", "-m", tiny, "-o", "out/")
    assert done.code == 1
    assert "encodec_24khz.ecdc: is of encodec_24khz, and -m is gist" in done.err
    assert "encodec_48khz.ecdc: is of encodec_48khz, and -m is gist" in done.err


FRAMES = {"name": "codes", "type": "codes", "rate": "1/320", "channels": 32, "levels": 1024}
ENCODEC = {  # its ports, and a mean of each frame in place of a network
    "like_enc": ([{"name": "audio", "type": "pcm"}], [FRAMES], 320, 0, None, """
    hops = Constant <value = int64[4] {0, 1, -1, 320}> ()
    framed = Reshape (audio, hops)
    mean = ReduceMean <keepdims: int = 0> (framed, three)
    scale = Constant <value = float {511.0}> ()
    shift = Constant <value = float {512.0}> ()
    scaled = Mul (mean, scale)
    positive = Add (scaled, shift)
    whole = Cast <to: int = 7> (positive)
    books = Constant <value = int64[3] {1, 32, 1}> ()
    codes = Tile (whole, books)"""),
    "like_dec": ([FRAMES], [{"name": "decoded", "type": "pcm"}], 320, 0, None, """
    first = Slice (codes, zero, one, one)
    number = Cast <to: int = 1> (first)
    scale = Constant <value = float {511.0}> ()
    shift = Constant <value = float {512.0}> ()
    signed = Sub (number, shift)
    mean = Div (signed, scale)
    mean4 = Unsqueeze (mean, three)
    times = Constant <value = int64[4] {1, 1, 1, 320}> ()
    held = Tile (mean4, times)
    flat = Constant <value = int64[3] {0, 1, -1}> ()
    decoded = Reshape (held, flat)"""),
}  # fmt: skip


def test_ecdc_there_and_back(here, cli):
    for part in ("enc", "dec"):
        more = {"sample_rate": 24000, "task": f"{part}ode", "parts": {"enc": "1", "dec": "2"}}
        small_artifacts.build(here, f"like_{part}", ENCODEC, **more)
    sf.write("a.wav", np.linspace(-0.9, 0.9, 24001), 24000, subtype="FLOAT")
    done = cli("encode", "a.wav", "-m", "./like", "--kbps", "24", "-o", "a.ecdc")
    assert done.code == 0, done.err
    assert (here / "a.ecdc").stat().st_size == 9 + 73 + 76 * 40
    assert cli("decode", "a.ecdc", "-m", "./like", "-o", "b.wav").code == 0
    x, rate = read("b.wav")
    assert (rate, x.shape) == (24000, (1, 24001))
    assert np.abs(x - read("a.wav")[0])[:, :24000].max() < 0.02  # the last frame is mostly silence
    done = cli("encode", "a.wav", "-m", "./like", "--kbps", "24", "-o", "b.ecdc", "--lm")
    assert done.code == 1
    assert (
        "like_lm: is no folder, and a language model is one; make it with: audiomask import enc" in done.err
    )
    wav("two.wav", channels=2)
    done = cli("encode", "two.wav", "-m", "./like", "--kbps", "24", "--format", "ecdc")
    assert (done.code, ".ecdc holds one channel, not 2" in done.err) == (1, True)
    done = cli("encode", "two.wav", "-m", "./like", "--kbps", "12")
    assert (done.code, "has one rate, of all its 32 books" in done.err) == (1, True)


SEGMENTS = {"type": "codes", "rate": "5/1584", "channels": 16, "levels": 1024}
LENGTH = {"name": "length", "type": "int", "rate": "1/47520", "levels": 48001}
LEVEL = {"name": "scale", "type": "float", "rate": "1/47520"}
WIDE = {  # the ports of EnCodec at 48 kHz; codes, scales and sound tell the length of their segment
    "wide_enc": ([{"name": "audio", "type": "pcm", "channels": 2}, LENGTH],
                 [{"name": "codes", **SEGMENTS}, LEVEL], 47520, 0, None, """
    column = Constant <value = int64[4] {0, 1, -1, 1}> ()
    length4 = Reshape (length, column)
    stride = Constant <value = int64 {320}> ()
    number = Div (length4, stride)
    times = Constant <value = int64[4] {1, 16, 1, 150}> ()
    tiled = Tile (number, times)
    flat = Constant <value = int64[3] {0, 16, -1}> ()
    codes = Reshape (tiled, flat)
    float_length = Cast <to: int = 1> (length)
    full = Constant <value = float {48000.0}> ()
    scale = Div (float_length, full)"""),
    "wide_dec": ([{"name": "codes", **SEGMENTS}, LEVEL, LENGTH],
                 [{"name": "decoded", "type": "pcm", "channels": 2}], 47520, 0, None, """
    float_length = Cast <to: int = 1> (length)
    full = Constant <value = float {48000.0}> ()
    share = Div (float_length, full)
    product = Mul (share, scale)
    column = Constant <value = int64[4] {0, 1, -1, 1}> ()
    product4 = Reshape (product, column)
    times = Constant <value = int64[4] {1, 2, 1, 47520}> ()
    tiled = Tile (product4, times)
    flat = Constant <value = int64[3] {0, 2, -1}> ()
    decoded = Reshape (tiled, flat)"""),
}  # fmt: skip


@pytest.mark.parametrize(
    ("samples", "rate", "channels"),
    [
        (1, 48000, 2),
        (47520, 48000, 2),
        (47521, 48000, 1),
        (95140, 48000, 2),
        (96001, 48000, 2),
        (300000, 44100, 1),
    ],
)
def test_segments_are_told_where_the_sound_ends(here, cli, samples, rate, channels):
    from audiomask.runtime.codes.ecdc import EcdcFile

    for part in ("enc", "dec"):
        more = {"sample_rate": 48000, "task": f"{part}ode", "parts": {"enc": "1", "dec": "2"}}
        small_artifacts.build(here, f"wide_{part}", WIDE, **more)
    wav("a.wav", samples, rate, channels)
    done = cli("encode", "a.wav", "-m", "./wide", "--kbps", "24", "-o", "a.ecdc")
    assert done.code == 0, done.err
    total = -(-samples * 48000 // rate)
    lengths = [min(48000, total - at) for at in range(0, total, 47520)]
    file = EcdcFile("a.ecdc")
    assert (file.samples, file.books) == (total, 16)
    for length, (scale, codes) in zip(lengths, file.segments(), strict=True):
        assert scale == pytest.approx(length / 48000)
        assert codes.shape == (16, -(-length // 320))
        assert (codes == length // 320).all()
    assert cli("decode", "a.ecdc", "-m", "./wide", "-o", "b.wav", "--subtype", "FLOAT").code == 0
    y, found = read("b.wav")
    assert (found, y.shape) == (48000, (2, total))
    wanted = np.repeat([(n / 48000) ** 2 for n in lengths], 47520)[:total]
    np.testing.assert_allclose(y, np.stack([wanted, wanted]), atol=1e-6)
    assert cli("codec", "a.wav", "-m", "./wide", "--kbps", "24", "-o", "c.wav", "--no-scores").code == 0
    done = cli("encode", "a.wav", "-m", "./wide", "--kbps", "24", "-o", "a.amk")
    assert (done.code, "codes segments, which only .ecdc files hold" in done.err) == (1, True)


# --- pipes --------------------------------------------------------------------------------------------------


def process(*words, **options):
    words = [sys.executable, "-m", "audiomask", *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, bufsize=0, **pipes | options)


def piped(data, *words):
    done = process(*words)
    out, err = done.communicate(data, timeout=60)
    assert b"Traceback" not in err
    return done.returncode, out, err.decode()


def test_a_file_through_two_pipes(here, cli, tiny):
    wav("a.flac", 30000, 44100, 2)
    code, coded, err = piped((here / "a.flac").read_bytes(), "encode", "-", "-m", tiny, *PLAIN)
    assert code == 0, err
    code, out, err = piped(coded, "decode", "-", "-m", tiny)
    assert code == 0, err
    (here / "out.wav").write_bytes(out)
    assert cli("codec", "a.flac", "-m", tiny, *PLAIN, "-o", "b.wav").code == 0
    np.testing.assert_array_equal(read("out.wav")[0], read("b.wav")[0])
    assert sf.info("out.wav").frames == 30000


def test_packets_and_sound_come_out_while_samples_come_in(here, tiny):
    """A packet of 20 ms leaves with its last sample, and its sound with the packet after it."""
    x = wav("a.wav", 3200, subtype="FLOAT")[0].astype("<f4")
    raw = ("--raw", "f32le", "-m", tiny, "-q")
    encode = process("encode", "-", *raw, *PLAIN, "--frames-per-packet", "1")
    decode = process("decode", "-", *raw, "--jitter", "0")
    encode.stdin.write(x[: 5 * 320].tobytes())
    coded = b""
    while len(coded) < 38 + 5 * (14 + 3):
        coded += encode.stdout.read(1000)
    assert len(coded) == 38 + 5 * (14 + 3)
    decode.stdin.write(coded)
    sound = b""
    while len(sound) < 4 * 320 * 4:
        sound += decode.stdout.read(10000)
    assert len(sound) == 4 * 320 * 4
    rest, err = encode.communicate(x[5 * 320 :].tobytes(), timeout=60)
    assert (encode.returncode, err) == (0, b"")
    more, err = decode.communicate(rest, timeout=60)
    assert (decode.returncode, err) == (0, b"")
    assert len(sound + more) == 4 * 3200
    (here / "a.amk").write_bytes(coded + rest)
    codes = codes_of("a.amk")
    assert codes.shape == (6, 10)
    player = Player(f"{tiny}_dec.onnx")
    y = np.concatenate([player.feed(codes)["decoded"], player.flush()["decoded"]], axis=1)
    np.testing.assert_allclose(np.frombuffer(sound + more, "<f4"), y[0], atol=1e-6)


def test_sigterm_is_the_end_of_the_input(here, tiny):
    raw = ("--raw", "s16le", "-m", tiny, "-q")
    encode = process("encode", "-", *raw, *PLAIN, "--frames-per-packet", "1")
    encode.stdin.write(bytes(2 * 1000))
    coded = b""
    while len(coded) < 38 + 3 * (14 + 3):
        coded += encode.stdout.read(1000)
    encode.send_signal(signal.SIGTERM)
    rest, err = encode.communicate(timeout=60)
    assert (encode.returncode, err) == (143, b"")
    (here / "a.amk").write_bytes(coded + rest)
    with AmkFile("a.amk") as file:
        assert (file.info.frames, file.notes) == (1000, [])
    decode = process("decode", "-", *raw, "--jitter", "0")
    decode.stdin.write(coded + rest)
    sound = b""
    while len(sound) < 2 * 320 * 2:
        sound += decode.stdout.read(1000)
    decode.send_signal(signal.SIGTERM)
    more, err = decode.communicate(timeout=60)
    assert (decode.returncode, err, len(sound + more)) == (143, b"", 2000)


def test_packets_that_are_missing_late_and_double(here, cli, tiny):
    wav("a.wav", 22050 * 2, 22050, 2)
    assert cli("encode", "a.wav", "-m", tiny, *PLAIN, "--frames-per-packet", "2").code == 0
    data = (here / "a.amk").read_bytes()
    found = [r for r in Unpacker().push(data, last=True) if isinstance(r, Packet)]
    pieces = [data[r.at : r.at + 14 + len(r.payload)] for r in found]
    assert len(pieces) == 50
    order = [
        1,
        *range(3, 10),
        2,
        11,
        10,
        12,
        12,
        *range(13, 30),
        20,
        *range(33, 49),
    ]  # 0, 2, 30 to 32, 49 lost
    mixed = data[: found[0].at] + b"".join(pieces[n] for n in order)
    end = data[found[-1].at + len(pieces[-1]) :]
    for ended in (True, False):
        got = piped(mixed + end * ended, "decode", "-", "-m", tiny, "--raw", "f32le", "--jitter", "120")
        code, out, err = got
        assert code == 0, err
        assert "1 late, 2 duplicated, 1 reordered, 0 stray" in err
        lost = np.repeat([n in (0, 2, 30, 31, 32, 49) for n in range(50)], 2)[: None if ended else 98]
        codes = np.where(lost, -1, codes_of("a.amk")[:, : len(lost)])
        player = Player(f"{tiny}_dec.onnx", sample_rate=22050, channels=12)
        y = player.feed(codes, lost[None].astype(np.float32))["decoded"]
        y = np.concatenate([y, player.flush()["decoded"]], axis=1)[:, :44100]
        np.testing.assert_allclose(np.frombuffer(out, "<f4").reshape(-1, 2).T, y, atol=1e-6)
        assert ("truncated: its end is missing" in err) != ended
    assert f"{0.04 * 5:.2f} s of codes are missing, and were concealed" in err


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"", 1, "standard input: is no .amk; make one with: audiomask encode"),
        (b"RIFF" + bytes(1000), 1, "standard input: is no .amk"),
        (MARK * 5000, 1, "standard input: is no .amk"),
    ],
)
def test_what_is_no_stream_of_packets(tiny, data, code, text):
    got, out, err = piped(data, "decode", "-", "-m", tiny, "--raw", "s16le")
    assert (got, out) == (code, b"")
    assert text in err


def test_an_empty_pipe_of_samples_is_an_empty_file(tiny):
    code, coded, _ = piped(b"", "encode", "-", "-m", tiny, *PLAIN, "--raw", "s16le")
    assert code == 0
    assert piped(coded, "decode", "-", "-m", tiny, "--raw", "s16le")[:2] == (0, b"")


@pytest.mark.slow
def test_an_hour_needs_no_more_memory_than_a_minute(here, tiny):
    peaks = {}
    for minutes in (1, 60):
        with sf.SoundFile(f"{minutes}.wav", "w", 16000, 1, "PCM_16") as file:
            for n in range(minutes):
                noise = np.random.default_rng(n).standard_normal(16000 * 60)
                file.write((1000 * noise).astype(np.int16))
        for words in (
            ["encode", f"{minutes}.wav", "-m", str(tiny), *PLAIN, "-q"],
            ["decode", f"{minutes}.amk", "-m", str(tiny), "-q"],
        ):
            code = (
                "import re, sys; from pathlib import Path; from audiomask.cli import main\n"
                f"code = main({words!r})\n"
                "status = Path('/proc/self/status').read_text()\n"
                "print(re.search(r'VmHWM:\\s*(\\d+)', status)[1]); sys.exit(code)\n"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            peaks[minutes, words[0]] = int(done.stdout) / 1024
        assert sf.info(f"{minutes}_decoded.wav").frames == 16000 * 60 * minutes
    for verb in ("encode", "decode"):
        assert peaks[60, verb] < peaks[1, verb] + 20
        assert peaks[60, verb] < 200


@pytest.mark.slow
def test_a_cluster_makes_the_same_files(here, cli, tiny):
    pytest.importorskip("ray")
    for n in range(3):
        wav(f"{n}.wav", 8000 + n, seed=n)
    names = [f"{n}.wav" for n in range(3)]
    assert cli("encode", *names, "-m", tiny, *PLAIN, "-o", "one/").code == 0
    done = cli("encode", *names, "-m", tiny, *PLAIN, "-o", "many/", "--ray", "local")
    assert done.code == 0, done.err
    done = cli("decode", "many", "-m", tiny, "-o", "back/", "--ray", "local")
    assert done.code == 0, done.err
    for n in range(3):
        assert (here / f"one/{n}.amk").read_bytes() == (here / f"many/{n}.amk").read_bytes()
        assert sf.info(f"back/{n}.wav").frames == 8000 + n


def test_the_parts_are_of_one_codec(tiny, another):
    parts = [Artifact.load(f"{stem}_{part}.onnx") for stem in (tiny, another) for part in ("enc", "dec")]
    from audiomask.runtime.catalogue import codec_hash

    hashes = [codec_hash(part) for part in parts]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]
