"""Attacks do what their names and values say, aligned, seeded, with gradients, in batches and in streams."""

import io
import itertools
import math
import sys
from types import SimpleNamespace

import codec_pair
import numpy as np
import pytest
import scipy.signal
import soundfile as sf
import torch

from audiomask import weights
from audiomask.audio import AudioError, media
from audiomask.data.simulate import attack_kinds, attacks, lossy
from audiomask.data.simulate import distortions as d
from audiomask.data.simulate.attacks import KINDS, SUITES, Attack, AttackError, Stream, form, parse, rows
from audiomask.models.gist import Gist

RATE, N = 16000, 8000
MOVING = ("speed", "stretch", "crop", "shift")
DELAYED = (
    "allpass",
    "phase",
    "polarity",
    "speaker",
)  # their phases move the peak of a correlation, not the sound
RANDOM = {
    "noise", "white", "pink", "background", "wind", "eq", "room", "jitter", "crop", "splice",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacks")
    rng = np.random.default_rng(5)
    sf.write(folder / "noise.wav", 0.1 * rng.standard_normal(22050), 22050, subtype="FLOAT")
    h = np.zeros(4000)
    h[[100, 900]] = 0.5, 0.25
    sf.write(folder / "room.wav", h, RATE, subtype="FLOAT")
    return folder


def spec_of(kind, files):
    more = {
        "background": f":20:{files / 'noise.wav'}",
        "ir": f":{files / 'room.wav'}",
        "codec": ":6:gist",
        "crop": ":0.25",
        "splice": f":0.1:{files / 'noise.wav'}",
    }
    return kind + more.get(kind, "")


def speechlike(count=1, channels=1, n=N, rate=RATE, seed=0):
    """Noise below 3 kHz in syllables, `[count, channels, n]`."""
    x = np.random.default_rng(seed).standard_normal((count, channels, n))
    x = scipy.signal.lfilter(*scipy.signal.butter(2, 3000, fs=rate), x)
    x *= 0.2 * (1.2 + np.sin(2 * np.pi * 5 * np.arange(n) / rate))
    return torch.from_numpy(x.astype(np.float32))


def tone(hz, n=N, rate=RATE, level=0.5):
    return (
        level * torch.sin(2 * math.pi * hz * torch.arange(n, dtype=torch.float64) / rate).float()[None, None]
    )


def lag(y, x, oversampling=16):
    """By how many samples y is later than x."""
    a, b = (scipy.signal.resample(z, oversampling * len(z)) for z in (y, x))
    correlation = scipy.signal.correlate(a, b)
    return (np.abs(correlation).argmax() - (len(b) - 1)) / oversampling


def db(ratio):
    return 20 * math.log10(float(ratio))


def rms(x):
    return float(x.detach().square().mean().sqrt())


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"lyra", "network"}))
def test_every_kind_is_seeded_batched_aligned_and_has_gradients(kind, files):
    attack, x, seeds = Attack(spec_of(kind, files)), speechlike(2), torch.tensor([3, 4])
    given = x.clone().requires_grad_()
    moved = attack.moved(given, RATE, seeds)
    y = moved.audio
    assert torch.isfinite(y).all()
    assert not torch.equal(y, x) or kind == "mono"
    same, alone = attack(x, RATE, seeds), attack(x[1:], RATE, seeds[1:])
    assert torch.allclose(y, same, atol=1e-6)
    assert torch.allclose(alone, y[1:], atol=1e-5)
    other = attack(x, RATE, seeds + 7)
    assert torch.equal(other, same) == (kind not in RANDOM)
    if kind not in MOVING:
        assert y.shape == (2, 1, N)
        assert (moved.begin == 0).all()
        assert moved.speed == 1
    if kind not in (*MOVING, *DELAYED, "pitch", "mono"):
        assert abs(lag(same[0, 0].numpy(), x[0, 0].numpy())) <= 0.75
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal(y.shape).astype(np.float32))
    (gradient,) = torch.autograd.grad((weight * y).sum(), given)
    if KINDS[kind].gradient == "straight-through":
        assert torch.equal(gradient, weight)
    else:
        assert torch.isfinite(gradient).all()
        assert float(gradient.abs().mean()) > 1e-3


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"mono", "lyra", "network"}))
def test_two_channels_at_another_rate(kind, files):
    x = speechlike(1, 2, 11025, 22050)
    y = Attack(spec_of(kind, files))(x, 22050)
    assert y.shape[:2] == (1, 2)
    assert torch.isfinite(y).all()
    if kind not in MOVING:
        assert y.shape == x.shape


@pytest.mark.parametrize("spec", ["noise:13", "wind:13", "background:13:{}/noise.wav"])
def test_noise_is_at_its_snr(spec, files):
    x = speechlike(3, 2)
    y = Attack(spec.format(files))(x, RATE, 1)
    for row, made in zip(x, y, strict=True):
        assert db(rms(row) / rms(made - row)) == pytest.approx(13, abs=0.1)
    silent = torch.zeros(1, 1, N)
    assert torch.equal(Attack(spec.format(files))(silent, RATE), silent)


def test_noise_of_a_level():
    silent = torch.zeros(1, 1, 4 * RATE)
    for kind in ("white", "pink"):
        assert rms(Attack(f"{kind}:0.05")(silent, RATE)) == pytest.approx(0.05, rel=0.02)
    spectrum = torch.fft.rfft(Attack("pink:0.1")(silent, RATE)[0, 0]).abs().square()
    octaves = [10 * torch.log10(spectrum[n : 2 * n].mean()) for n in (500, 1000, 2000, 4000, 8000)]
    steps = [float(b - a) for a, b in itertools.pairwise(octaves)]
    assert steps == pytest.approx([-3] * 4, abs=0.6)


@pytest.mark.parametrize(
    ("spec", "gains"),
    [
        ("lowpass:2000", {1800: 0, 2000: -6, 2200: -60}),
        ("highpass:1000", {800: -60, 1000: -6, 1200: 0}),
        ("highpass:50", {25: -40, 50: -6, 100: 0}),
        ("bandpass:500:3000", {300: -60, 500: -6, 1500: 0, 3000: -6, 3300: -60}),
        ("smooth:4", {1000: db(math.sin(math.pi / 4) / 4 / math.sin(math.pi / 16)), 4000: -60}),
        ("allpass:1000", {500: 0, 1000: 0, 4000: 0}),
        ("phase:90", {500: 0, 4000: 0}),
        ("gain:-9", {1000: -9}),
        ("polarity", {1000: 0}),
        ("speaker:400", {200: -12.3, 400: -3, 1600: 0}),
        ("resample:8000", {3000: 0, 5000: -60}),
        ("resample:32000", {6000: 0}),
        ("quantise:12", {1000: 0}),
    ],
)
def test_gain_by_frequency(spec, gains):
    for hz, wanted in gains.items():
        x = tone(hz, 2 * N, level=0.05)
        inside = slice(RATE // 4, -RATE // 4)
        got = db(max(rms(Attack(spec)(x, RATE)[..., inside]) / rms(x[..., inside]), 1e-9))
        assert got <= wanted + 0.3, (spec, hz, got)
        assert got >= wanted - 0.3 or wanted <= -40, (spec, hz, got)


def test_smoothing_is_a_moving_average_also_of_even_lengths():
    x = speechlike()
    odd = np.convolve(x[0, 0], np.ones(5) / 5, "same")
    assert np.allclose(Attack("smooth:5")(x, RATE)[0, 0], odd, atol=1e-5)
    assert lag(Attack("smooth:4")(x, RATE)[0, 0].numpy(), x[0, 0].numpy(), 64) == 0


def test_phases():
    x = tone(1000)
    inside = slice(2000, -2000)
    for spec, late in (("phase:90", -4), ("phase:-90", 4), ("allpass:1000", 4), ("phase:180", 8)):
        y = Attack(spec)(x, RATE)[0, 0].roll(-late)
        assert torch.allclose(y[inside], x[0, 0, inside], atol=0.01), spec


def test_echo_room_and_measured_response(files):
    click = torch.zeros(2, 1, RATE)
    click[..., 100] = 1.0
    y = Attack("echo:0.4:0.25")(click, RATE)[0, 0]
    assert y.nonzero()[:, 0].tolist() == [100, 4100]
    assert float(y[4100]) == pytest.approx(0.4)
    y = Attack(f"ir:{files / 'room.wav'}")(click, RATE)[0, 0]
    assert (y.abs() > 1e-4).nonzero()[:, 0].tolist() == [100, 900]  # from its peak on, which has gain 1
    assert float(y[900]) == pytest.approx(0.5, abs=1e-4)
    y = Attack("room:0.4:6")(click, RATE, torch.tensor([1, 2]))
    assert torch.allclose(y[..., 100], torch.ones(2, 1), atol=1e-4)
    assert db(1 / float(y[0, 0, 101:].square().sum().sqrt())) == pytest.approx(6, abs=0.1)
    decay = [10 * torch.log10(y[0, 0, 100 + n : 100 + n + 800].square().mean()) for n in (1600, 4000)]
    assert float(decay[1] - decay[0]) == pytest.approx(-60 * 0.15 / 0.4, abs=3)


def test_loudness_processing():
    loud, soft = tone(1000, level=0.5), tone(1000, level=0.005)
    inside = slice(2000, -2000)

    def gain(spec, x):
        return db(rms(Attack(spec)(x, RATE)[..., inside]) / rms(x[..., inside]))

    level = db(0.5 / math.sqrt(2))
    assert gain("compressor:-30:4", loud) == pytest.approx((level + 30) * (1 / 4 - 1), abs=0.1)
    assert gain("compressor:-30:4", soft) == pytest.approx(0, abs=1e-3)
    assert gain("expander:-30:2", soft) == pytest.approx(level - 40 + 30, abs=0.1)
    assert gain("expander:-30:2", loud) == pytest.approx(0, abs=1e-3)
    x = 2 * speechlike(2, 2)
    y = Attack("limiter:-20")(x, RATE)
    assert float(y.abs().max()) <= 0.1 + 1e-6 < float(x.abs().max())
    assert torch.equal(Attack("limiter:-6")(soft, RATE), soft)
    both = torch.cat([loud, soft], 1)  # channels share their gain
    made = Attack("compressor:-30:4")(both, RATE)
    assert torch.allclose(made[:, 0] / 100, made[:, 1], atol=1e-4)


def test_bits_silence_and_mono():
    x = speechlike(1, 2)
    y = Attack("quantise:8")(x, RATE)
    assert torch.equal(y * 128, (y * 128).round())
    assert float((y - x).abs().max()) <= 0.5 / 128 + 1e-6
    y = Attack("shush:0.25")(x, RATE)
    assert not y[..., : N // 4].any()
    assert torch.equal(y[..., N // 4 :], x[..., N // 4 :])
    assert torch.allclose(Attack("mono")(x, RATE)[:, 0], x.mean(1))


def pitch_of(y, rate=RATE):
    y = y[0, 0].numpy()
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y)), 8 * len(y)))
    return spectrum.argmax() * rate / 8 / len(y)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_speed_stretch_and_pitch(rate):
    x = tone(1000, rate, rate)
    for factor in (0.8, 1.1):
        moved = Attack(f"speed:{factor}").moved(x, rate)
        assert moved.audio.shape[2] == round(rate / factor)
        assert moved.speed == pytest.approx(factor, rel=1e-9)
        assert pitch_of(moved.audio, rate) == pytest.approx(1000 * factor, abs=0.5)
        moved = Attack(f"stretch:{factor}").moved(x, rate)
        assert (moved.audio.shape[2], moved.speed) == (round(rate / factor), factor)
        assert pitch_of(moved.audio, rate) == pytest.approx(1000, abs=1)
        assert rms(moved.audio) == pytest.approx(rms(x), rel=0.15)  # phases between bins drift apart
    y = Attack("pitch:3")(x, rate)
    assert y.shape == x.shape
    assert pitch_of(y, rate) == pytest.approx(1000 * 2**0.25, abs=2)


def test_speed_agrees_with_a_resampler_and_sounds_stay_where_they_belong():
    x = speechlike(1, 1, 2 * N)
    y = Attack("speed:1.25")(x, RATE)[0, 0].numpy()
    expected = scipy.signal.resample_poly(x[0, 0].numpy().astype(float), 4, 5, window=("kaiser", 12.0))
    assert (y - expected)[50:-50].std() < 0.02 * expected.std()
    clicks = torch.zeros(1, 1, 2 * N)
    clicks[..., [3000, 12000]] = 1.0
    for spec in ("speed:0.9", "stretch:0.9", "pitch:1"):
        moved = Attack(spec).moved(clicks, RATE)
        halves = moved.audio[0, 0].abs().tensor_split(2)
        found = [float(halves[0].argmax()), float(halves[1].argmax()) + len(halves[0])]
        assert [moved.speed * at for at in found] == pytest.approx(
            [3000, 12000], abs=2 if "speed" in spec else 200
        )


def test_crops_shifts_and_splices_say_what_was_where():
    x = torch.arange(2 * N).float().reshape(2, 1, N)
    moved = Attack("crop:0.2").moved(x, RATE, 5)
    assert moved.audio.shape == (2, 1, 3200)
    assert moved.begin[0] != moved.begin[1]
    assert torch.equal(moved.audio[:, 0, 0] - x[:, 0, 0], moved.begin.float())
    moved = Attack("shift:0.01").moved(x, RATE)
    assert torch.equal(moved.audio, x[..., 160:])
    assert moved.begin.tolist() == [160, 160]
    moved = Attack("shift:-0.01").moved(x, RATE)
    assert torch.equal(moved.audio[..., 160:], x)
    assert moved.begin.tolist() == [-160, -160]
    moved = Attack("splice:0.1").moved(x, RATE, 5, other=-x)
    assert moved.own is not None
    assert (~moved.own).sum(1).tolist() == [1600, 1600]
    assert torch.equal(moved.audio[:, 0], torch.where(moved.own, x[:, 0], -x[:, 0]))
    # in a chain: sample n was at begin + speed n
    moved = Attack("splice:0.1+shift:0.01+speed:2+crop:0.1").moved(x, RATE, 5, other=-x)
    assert moved.speed == 2
    at = (moved.begin[:, None] + 2 * torch.arange(1600)).long()
    spliced = Attack("splice:0.1").moved(x, RATE, 5, other=-x)
    assert torch.equal(moved.own, spliced.own.gather(1, at))
    with pytest.raises(AudioError, match=r"0.6 s cannot be cut out of 0.5 s"):
        Attack("crop:0.6")(x, RATE)
    with pytest.raises(AudioError, match=r"0.5 s cannot be cut off 0.5 s"):
        Attack("shift:0.5")(x, RATE)
    for spec in ("splice:0.1", "crop:0.2+splice:0.1"):
        with pytest.raises(AudioError, match="give the other sound"):
            Attack(spec)(x, RATE, other=-x if "+" in spec else None)


@pytest.mark.parametrize("kind", ["background:20", "splice:0.1"])
def test_silent_material_is_refused(kind, tmp_path):
    sf.write(tmp_path / "silent.wav", np.zeros(4000), 16000)
    with pytest.raises(AudioError, match=r"silent\.wav: is silent; choose another sound"):
        Attack(f"{kind}:{tmp_path / 'silent.wav'}")(torch.randn(1, 1, 8000), 16000)


def test_jitter_reads_beside_the_samples():
    x = tone(1000, 3 * N)
    moves = torch.full((1, 3 * N), 0.25)
    expected = torch.sin(2 * math.pi * 1000 * (torch.arange(3 * N) + 0.25) / RATE) / 2
    assert torch.allclose(d.jittered(x, moves)[0, 0, 20:-20], expected[20:-20], atol=1e-3)
    y = Attack("jitter:0.1")(x, RATE)
    slope = 2 * math.pi * 1000 / RATE * 0.5 / math.sqrt(2)
    assert rms(y - x) == pytest.approx(0.1 * slope, rel=0.05)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("spec", ["opus:24", "mp3:16", "mp3:320", "aac:48", "vorbis:48", "gist:6"])
def test_codecs_are_aligned_at_any_rate(spec, rate):
    x = speechlike(1, 1, rate // 2, rate)
    y = Attack(spec)(x, rate)
    assert y.shape == x.shape
    assert abs(lag(y[0, 0].numpy(), x[0, 0].numpy())) / rate < 1e-4
    assert rms(y - x) < 1.2 * rms(x)


def test_a_lower_bit_rate_leaves_less():
    x = speechlike(1, 2, 2 * N)
    for codec, low, high, factor in (
        ("opus", 8, 64, 1.5),
        ("mp3", 16, 128, 1.5),
        ("aac", 16, 96, 1.5),
        ("vorbis", 40, 70, 1.2),
        ("gist", 1.5, 9, 1.02),
    ):
        bad, good = (rms(Attack(f"{codec}:{kbps}")(x, RATE) - x) for kbps in (low, high))
        assert bad > factor * good, codec


def test_codecs_stream():
    x = speechlike(1, 2, 2 * N)[0].numpy()
    for codec in ("opus", "mp3", "aac"):
        whole = np.concatenate(list(lossy.through_ffmpeg(iter([x]), RATE, codec, 24)), 1)
        parts = list(lossy.through_ffmpeg(iter(np.split(x, [100, 5000, 5001], axis=1)), RATE, codec, 24))
        assert len(parts) > 1
        assert np.array_equal(np.concatenate(parts, 1), whole)
    assert list(lossy.through_ffmpeg(iter([]), RATE, "opus", 24)) == []
    assert list(lossy.through_codec(iter([]), RATE, 6)) == []


def test_what_codecs_refuse(monkeypatch):
    with pytest.raises(AudioError, match=r"opus: takes one or two channels, not 3"):
        Attack("opus")(speechlike(1, 3), RATE)
    with pytest.raises(AudioError, match=r"has 0\.5 to 9 kbit/s in steps of 0\.5"):
        Attack("gist:4.1")(speechlike(), RATE)
    with pytest.raises(AudioError, match="no such codec ships"):
        Attack("codec:6:nowhere")(speechlike(), RATE)

    def missing():
        raise media.NotInstalledError

    monkeypatch.setattr(media, "library", missing)
    with pytest.raises(AudioError, match=r"opus: needs PyAV; pip install 'audiomask\[media\]'"):
        Attack("opus")(speechlike(), RATE)


@pytest.fixture(scope="module")
def tiny_codec(tmp_path_factory):
    """The folder of a codec with random weights, .2 to 1.2 kbit/s, and the stem of its artifacts."""
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gist(**codec_pair.TINY)
    weights.save(folder, model, {"class_path": "audiomask.models.gist.Gist", "init_args": codec_pair.TINY})
    return folder, codec_pair.build(folder)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_codec_with_gradients_is_its_artifact(tiny_codec, rate):
    folder, stem = tiny_codec
    x = speechlike(2, 2, rate // 2, rate).requires_grad_()
    y = Attack(f"network:0.8:{folder}")(x, rate)
    made = Attack(f"codec:0.8:{stem}")(x.detach(), rate)
    inside = slice(rate // 20, -rate // 20)  # two resamplers
    assert rms((y - made)[..., inside]) < (1e-4 if rate == 16000 else 0.1) * rms(made)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient.any()
    assert not torch.allclose(gradient, 2 * y)  # not straight through
    with pytest.raises(AudioError, match=r"has 1 to 6 times 0\.2 kbit/s, not 0\.9"):
        Attack(f"network:0.9:{folder}")(x, rate)


def test_our_codec_with_its_gradients_is_the_one_that_ships():
    x = speechlike(2)[..., :4000].requires_grad_()
    y, made = Attack("network:6")(x, RATE), Attack("gist:6")(x.detach(), RATE)
    inside = slice(0, -2 * RATE // 50)  # behind the end one codes silence, the other nothing
    assert rms((y - made)[..., inside]) < 1e-4 * rms(made)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.isfinite(gradient).all()
    assert not torch.allclose(gradient, 2 * y)
    with pytest.raises(AudioError, match=r"gist: has 1 to 18 times 0\.5 kbit/s, not 9\.5"):
        Attack("network:9.5")(x, RATE)


def test_a_codec_that_is_loaded_on_the_way_draws_nothing():
    attack_kinds._network.cache_clear()
    state = torch.get_rng_state()
    Attack("network:6")(speechlike(1), RATE)
    assert torch.equal(torch.get_rng_state(), state)


def test_our_codec_is_missed_where_only_the_package_is(monkeypatch, tmp_path):
    monkeypatch.setattr(attack_kinds, "GIST", tmp_path / "gist")
    attack_kinds._network.cache_clear()
    with pytest.raises(AudioError, match=r"network:6:FOLDER"):
        Attack("network:6")(speechlike(1), RATE)


class Half:
    """In place of LiteRT: networks that halve the samples, and remember how many signals were begun."""

    begun = 0

    def __init__(self, path, num_threads):
        assert (path[-7:], num_threads) == (".tflite", 1)

    def allocate_tensors(self):
        Half.begun += 1

    def get_signature_runner(self, part=""):
        def run(**given):
            if part == "encode":
                assert given["num_quantizers"] == 30
                return {"output_0": np.resize(given["input_frames"], (46, 1, 1))}
            if part == "decode":
                sent = given["encoding_indices"]
                assert (sent[30:] == -1).all()
                assert sent.dtype == np.int32
                return {"output_0": Half.frame}
            Half.frame = given.get("input_audio")
            return {"output_0": Half.frame / math.sqrt(2)}

        return run


@pytest.fixture
def lyra_files(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", SimpleNamespace(Interpreter=Half))
    for name in ("soundstream_encoder", "quantizer", "lyragan"):
        (tmp_path / f"{name}.tflite").touch()
    return tmp_path


@pytest.mark.parametrize("rate", [16000, 44100])
def test_lyra_codes_each_channel_from_its_beginning(lyra_files, rate):
    x, begun = speechlike(2, 2, rate // 2 - 9, rate), Half.begun
    y = Attack(f"lyra:6:{lyra_files}")(x, rate)
    assert y.shape == x.shape
    assert rms(y) == pytest.approx(rms(x) / math.sqrt(2), rel=0.05)
    assert abs(lag(y[1, 1].numpy(), x[1, 1].numpy())) < 0.2
    assert Half.begun - begun == 3 * (2 + 4)  # for each call and each channel of two rows


def test_what_lyra_needs(lyra_files, monkeypatch):
    (lyra_files / "quantizer.tflite").unlink()
    with pytest.raises(AudioError, match=r"holds no quantizer\.tflite"):
        Attack(f"lyra:6:{lyra_files}")(speechlike(), RATE)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(AudioError, match="lyra: needs LiteRT; pip install ai-edge-litert"):
        Attack(f"lyra:6:{lyra_files}")(speechlike(), RATE)


def test_vorbis_comes_near_its_bit_rate(monkeypatch):
    x, sizes, write = speechlike(1, 2, 3 * 44100, 44100)[0].numpy(), {}, sf.write

    def kept(file, *args, **how):
        write(file, *args, **how)
        sizes[file.getvalue()] = how["compression_level"]

    head = len(lossy._empty_vorbis(44100, 2))
    monkeypatch.setattr(lossy.soundfile, "write", kept)
    y = lossy.through_vorbis(x, 44100, 120)
    near = min(sizes, key=lambda data: abs(len(data) - head - 45000))
    assert abs((len(near) - head) * 8 / 3 / 1000 - 120) < 3
    assert np.array_equal(y, sf.read(io.BytesIO(near), dtype="float32")[0].T)


def test_specs():
    steps = parse("opus:12 + bandpass:300+echo:0.1..0.5:.2+splice:1:a:b.wav")
    assert [step.kind.name for step in steps] == ["opus", "bandpass", "echo", "splice"]
    assert [step.values for step in steps] == [(12.0,), (300.0, 8000.0), ((0.1, 0.5), 0.2), (1.0, "a:b.wav")]
    text = "opus:12/16.5+bandpass:300:8000+echo:0.1..0.5:0.2+splice:1:a/b:b.wav+polarity"
    assert str(Attack(text)) == text
    for spec, message in {
        "": "nothing: is no attack; there are noise white",
        "nois": "nois: is no attack",
        "opus:x": r"KBPS 'x' is no number from 0\.5 to 510 kbit/s",
        "opus:nan": "is no number",
        "opus:5000": "is no number from",
        "opus:20..10": "runs downwards",
        "opus:6/5000": r"KBPS '5000' is no number from",
        "opus:6/": r"KBPS '' is no number from",
        "quantise:8.5": "BITS '8.5' is no whole number",
        "polarity:1": "polarity takes no value",
        "ir": "give ir:FILE",
        "background:20": "give background:SNR:FILE",
        "codec": "give codec:KBPS:STEM",
        "opus:1:2": "is no number",
    }.items():
        with pytest.raises(AttackError, match=message):
            parse(spec)
    assert [form(KINDS[name]) for name in ("echo", "mono", "ir")] == [
        "echo[:VOLUME[:DELAY]]",
        "mono",
        "ir:FILE",
    ]


def test_the_table_is_complete():
    assert len(rows()) == len(KINDS) >= 40
    for kind in KINDS.values():
        assert kind.doc
        assert kind.source
        assert kind.gradient in ("yes", "straight-through")
        for p in kind.parameters:
            assert p.is_path or p.default is None or p.low <= p.default <= p.high
    for specs in SUITES.values():
        assert all(str(Attack(spec)) for spec in specs)


def test_one_of_several_is_drawn_evenly_and_by_the_seed():
    drawn = [Attack("network:3/6/12:x/y").drawn(seed)[0].values for seed in range(300)]
    assert {folder for _, folder in drawn} == {"x/y"}
    rates = [rate for rate, _ in drawn]
    assert {n: pytest.approx(100, abs=30) for n in (3, 6, 12)} == {n: rates.count(n) for n in (3, 6, 12)}
    assert drawn[:5] == [Attack("network:3/6/12:x/y").drawn(seed)[0].values for seed in range(5)]


def test_ranges_are_drawn_evenly_and_by_the_seed():
    drawn = [Attack("smooth:2..4").drawn(seed)[0].values[0] for seed in range(300)]
    assert {n: pytest.approx(100, abs=30) for n in (2, 3, 4)} == {n: drawn.count(n) for n in (2, 3, 4)}
    speeds = [Attack("speed:0.8..1.2").drawn(seed)[0].values[0] for seed in range(300)]
    assert 0.8 <= min(speeds) < 0.81
    assert 1.19 < max(speeds) <= 1.2
    assert speeds[7] == Attack("speed:0.8..1.2").drawn(7)[0].values[0]
    x = speechlike(2)
    assert torch.equal(*(Attack("speed:0.8..1.2")(x, RATE, 7) for _ in range(2)))


def test_two_steps_of_a_chain_draw_apart():
    x = torch.zeros(1, 1, N)
    once, twice = Attack("white:0.1")(x, RATE, 1), Attack("white:0.1+white:0.1")(x, RATE, 1)
    assert rms(twice) == pytest.approx(math.sqrt(2) * rms(once), rel=0.03)


def test_a_seed_is_a_row():
    x = speechlike(3)
    with pytest.raises(ValueError, match=r"seeds of shape \(2,\) do not fit 3 rows"):
        Attack("noise")(x, RATE, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"want \[B, C, T\]"):
        Attack("noise")(x[0], RATE)
    y = Attack("white:0.1")(torch.zeros(3, 1, N), RATE, 1)
    assert abs(float((y[0] * y[1]).mean())) < 1e-3


def pieces(x, size=3001):
    return [x[:, at : at + size] for at in range(0, x.shape[1], size)]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"gist", "codec", "lyra", "network"}))
def test_a_stream_is_the_attack_on_the_whole(kind, files, monkeypatch):
    """Short ones to the bit, by seeds that both make; long ones in stretches, except for fresh noise."""
    x = speechlike(1, 1, 3 * RATE + 77)[0].numpy()
    spec = spec_of(kind, files)
    short = np.concatenate(list(Stream(Attack(spec), RATE, 9)(pieces(x))), 1)
    monkeypatch.setattr(attacks, "STRETCH_S", 1)
    long = Stream(Attack(spec), RATE, 9)
    parts = list(long(pieces(x)))
    if KINDS[kind].reach is not None and KINDS[kind].flow is None:
        assert len(parts) in (2, 3) or KINDS[kind].reach > 1
    y = np.concatenate(parts, 1)
    assert y.shape == short.shape
    if not KINDS[kind].fresh:
        assert np.abs(y - short).max() < 2e-5 * max(1, np.abs(short).max())


def test_a_stream_says_where_things_were():
    x = speechlike(1, 1, 2 * RATE)[0].numpy()
    stream = Stream(Attack("crop:1..1.5+speed:1.25+white"), RATE, 3)
    y = np.concatenate(list(stream([x])), 1)
    assert stream.speed == pytest.approx(1.25)
    assert stream.spec.startswith("crop:1.")
    again = scipy.signal.resample_poly(x[0, round(stream.begin * RATE) :], 4, 5)[: y.shape[1]]
    assert np.corrcoef(again[:6000], y[0, :6000])[0, 1] > 0.99
    assert Stream(Attack("white"), RATE).begin == 0


def test_what_needs_the_whole_refuses_more_than_it_can_hold(monkeypatch):
    monkeypatch.setattr(attacks, "MOST", 5000)
    x = np.zeros((1, 4000), np.float32)
    assert len(list(Stream(Attack("white"), RATE)([x, x, x]))) > 0
    with pytest.raises(
        AudioError, match=r"speed:1.25: needs the whole recording at once, and takes 5000 sam"
    ):
        list(Stream(Attack("speed"), RATE)([x, x]))
