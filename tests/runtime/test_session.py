"""audiomask.runtime.session: any split into blocks gives the same, aligned, at any rate, for any channels."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from options import keywords

from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.session import Session

RATES = [16000, 48000, 44100, 8000]


@pytest.fixture(scope="module")
def model(toy16):
    return Artifact.load(toy16)


def whole(model, x, **options):
    s = Session(model, channels=x.shape[0], **keywords(options))
    return np.concatenate((s.feed(x), np.atleast_2d(s.flush())), axis=1)


def split(session, x, sizes):
    parts, at = [], 0
    for size in sizes:
        parts.append(session.feed(x[:, at : at + size]))
        at += size
    parts += [session.feed(x[:, at:]), np.atleast_2d(session.flush())]
    return np.concatenate(parts, axis=1)


def test_output_is_what_the_graph_computes_aligned(model, toys, noise):
    for samples in (1, 255, 256, 257, 5000, 64 * 256 * 2 + 77):
        x = noise(1, samples)
        y = whole(model, x)
        assert y.shape == x.shape
        assert np.abs(y - toys.lowpass(x)).max() < 1e-6


@given(
    rate=st.sampled_from(RATES),
    sizes=st.lists(st.integers(0, 1500), max_size=8),
    dry=st.sampled_from([0, 0.3]),
)
@settings(max_examples=30, deadline=None)
def test_any_blocks_equal_the_whole(toy16, rate, sizes, dry):
    model = Artifact.load(toy16)
    x = 0.1 * np.random.default_rng(1).standard_normal((2, sum(sizes) + 700)).astype(np.float32)
    want = whole(model, x, sample_rate=rate, dry=dry)
    got = split(Session(model, sample_rate=rate, channels=2, dry=dry), x, sizes)
    assert got.shape == x.shape
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("rate", [48000, 44100, 8000, 44101])
def test_other_rates_are_aligned(tmp_path, toys, rate):
    """A pure delay in the graph: whatever the rate, what comes out is what went in, at the same place."""
    model = Artifact.load(toys.build(tmp_path / "delay.onnx", pole=None))
    t = np.arange(rate // 2) / rate
    x = (0.3 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 2500 * t)).astype(np.float32)[None]
    y = whole(model, x, sample_rate=rate)
    assert y.shape == x.shape
    inside = slice(rate // 20, -rate // 20)
    assert np.abs(y - x)[0, inside].max() < 1e-3


@pytest.mark.parametrize("rate", [*RATES, 192000, 44101])
def test_latency_is_kept_and_not_overstated(model, noise, rate):
    s = Session(model, sample_rate=rate)
    assert s.latency == s.delay + s.hop
    x, worst, out = noise(1, 3 * s.latency)[0], 0, 0
    step = 1 if rate < 48000 else 7
    for n in range(0, len(x), step):
        out += len(s.feed(x[n : n + step]))
        worst = max(worst, min(n + step, len(x)) - out)
    assert worst <= s.latency
    assert worst >= s.latency - 2 * rate / 16000 - step - 1


def test_native_latency_is_the_models(model):
    s = Session(model)
    assert (s.hop, s.delay, s.latency) == (256, 256, 512)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("block", [1, 128, 256, 480])
def test_untrimmed_returns_as_many_as_it_gets(model, noise, rate, block):
    s = Session(model, sample_rate=rate, channels=2, trim=False, block=block)
    x = noise(2, 40 * block + 12000 // block * block)
    parts = [s.feed(x[:, n : n + block * 3]) for n in range(0, x.shape[1], block * 3)]
    assert [p.shape[1] for p in parts] == [
        x[:, n : n + block * 3].shape[1] for n in range(0, x.shape[1], block * 3)
    ]
    y = np.concatenate([*parts, s.flush()], axis=1)
    assert s.lag <= s.latency
    assert y.shape[1] == x.shape[1] + s.lag
    assert not y[:, : s.lag].any()
    want = whole(model, x, sample_rate=rate)
    assert np.abs(y[:, s.lag :] - want).max() < 1e-5


def test_hop_sized_blocks_wait_for_the_delay_only(model):
    assert Session(model, trim=False, block=256).lag == 256
    assert Session(model, trim=False).lag == 511


def test_layouts(model, noise):
    x = noise(1, 1000)[0]
    s = Session(model)
    assert s.feed(x).ndim == 1
    assert s.feed(x[:0]).shape == (0,)
    assert s.feed(x[None]).ndim == 2
    assert s.flush().ndim == 1
    assert s.flush().shape == (0,)
    y = s.feed(np.arange(600))  # integers, not contiguous: taken as they are
    assert y.dtype == np.float32
    s = Session(model, channels=2)
    np.testing.assert_array_equal(
        s.feed(noise(500, 2).T), Session(model, channels=2).feed(noise(500, 2).T.copy())
    )
    for wrong in (np.zeros(10), np.zeros((3, 10)), np.zeros((2, 1, 10))):
        with pytest.raises(ValueError, match=r"does not fit \[2, T\]"):
            s.feed(wrong)


def test_output_does_not_alias_memory_that_is_used_again(model, noise):
    s = Session(model)
    s.feed(noise(1, 256)[0])
    first = s.feed(noise(1, 256, 1)[0])
    kept = first.copy()
    s.feed(noise(1, 256, 2)[0])
    assert np.array_equal(first, kept)


def test_channels_are_independent(model, noise):
    x = noise(3, 2000)
    together = whole(model, x)
    for c in range(3):
        np.testing.assert_allclose(together[c], whole(model, x[c : c + 1])[0], atol=1e-7)


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("trim", [True, False])
def test_an_array_becomes_one_channel_and_the_dry_sound_is_its_reference(array3, toys, noise, rate, trim):
    x = noise(3, 4000)
    s = Session(array3, sample_rate=rate, dry=0.25, trim=trim)
    assert (s.channels, s.outputs) == (3, 1)
    y = split(s, x, [1, 0, 300, 1111])
    assert y.shape == (1, 4000 + s.lag)
    y = y[:, s.lag :]
    if rate == 16000:
        wet = toys.lowpass(np.asarray(toys.gains, np.float32) @ x)
        assert np.abs(y[0] - (0.75 * wet + 0.25 * x[1])).max() < 1e-5
    else:  # conversion is linear: the dry share is what the wet one lacks
        wet = whole(Artifact.load(array3), x, sample_rate=rate)
        np.testing.assert_allclose(y, 0.75 * wet + 0.25 * x[1:2], atol=1e-5)


def test_an_array_session_is_restored_and_mended(array3, noise):
    s, x = Session(array3, dry=0.5), noise(3, 2000)
    s.feed(x[:, :700])
    before = s.snapshot()
    first = s.feed(x[:, 700:])
    s.restore(before)
    np.testing.assert_array_equal(s.feed(x[:, 700:]), first)
    s.engine.state[0][:] = np.nan
    assert np.isfinite(s.feed(x)).all()
    assert s.faults == 1


def test_a_wrong_number_of_microphones_is_refused(array3, tmp_path, toys):
    with pytest.raises(ArtifactError, match="array3: takes 3 channels, not 2, one for each"):
        Session(array3, channels=2)
    for reference in (-1, 3):
        path = toys.build(tmp_path / "a.onnx", gains=(1.0, 1.0, 1.0), reference=reference)
        with pytest.raises(ArtifactError, match=f"reference {reference} is none of its channels"):
            Artifact.load(path)


def test_controls(model, toys, noise):
    x = noise(1, 2000)
    np.testing.assert_allclose(whole(model, x, strength=0.0), x, atol=1e-7)
    half = whole(model, x, strength=0.5)
    np.testing.assert_allclose(half, (x + toys.lowpass(x)) / 2, atol=1e-6)
    np.testing.assert_allclose(whole(model, x, dry=0.5), half, atol=1e-6)
    np.testing.assert_allclose(whole(model, x, dry=1.0), x, atol=1e-7)
    s = Session(model)
    a = s.feed(x[0, :1024])
    s.set({"strength": 0.0})
    b = np.concatenate((s.feed(x[0, 1024:]), s.flush()))
    np.testing.assert_allclose(a, toys.lowpass(x)[0, : len(a)], atol=1e-6)
    np.testing.assert_allclose(b[256:], x[0, len(a) + 256 :], atol=1e-7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": 1.5}, r"strength = 1.5 is outside 0.0 to 1.0"),
        ({"strength": float("nan")}, "is not a number"),
        ({"strength": "much"}, "is not a number"),
        ({"strength": [1, 1, 1]}, r"has shape \(3,\), not \(1,\)"),
        ({"depth": 1}, "has no control 'depth'; it has: strength"),
        ({"dry": 2}, "dry = 2 is outside 0 to 1"),
        ({"channels": 0}, "takes 1 channels, not 0"),
        ({"sample_rate": -1}, "is not positive"),
    ],
)
def test_bad_options(model, options, words):
    with pytest.raises(ArtifactError, match=words):
        Session(model, **keywords(options))


def test_one_value_for_each_channel(model, noise):
    x = noise(2, 1000)
    y = whole(model, x, strength=[0.0, 1.0])
    np.testing.assert_allclose(y[0], x[0], atol=1e-7)
    assert np.abs(y[1] - x[1]).max() > 0.01


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("trim", [True, False])
def test_snapshot(model, noise, rate, trim):
    s = Session(model, sample_rate=rate, channels=2, dry=0.2, trim=trim)
    x = noise(2, 9000)
    s.feed(x[:, :3333])
    saved = s.snapshot()
    first = np.concatenate((s.feed(x[:, 3333:]), s.flush()), axis=1)
    s.set({"strength": 0.1}, dry=0)
    s.feed(noise(2, 1234, 5))
    s.restore(saved)
    assert np.array_equal(np.concatenate((s.feed(x[:, 3333:]), s.flush()), axis=1), first)
    other = Session(model, sample_rate=rate, channels=2, trim=trim)
    other.restore(saved)
    assert np.array_equal(np.concatenate((other.feed(x[:, 3333:]), other.flush()), axis=1), first)
    with pytest.raises(ValueError, match="does not fit a player"):
        Session(model).restore(saved)


def test_reset_and_flush_start_anew(model, noise):
    x = noise(1, 1000)[0]
    s = Session(model, sample_rate=44100)
    first = np.concatenate((s.feed(x), s.flush()))
    assert np.array_equal(np.concatenate((s.feed(x), s.flush())), first)
    s.feed(x)
    s.reset()
    assert np.array_equal(np.concatenate((s.feed(x), s.flush())), first)


def test_nan_in_the_input_is_silence(model, noise):
    x = noise(1, 2000)[0]
    clean = x.copy()
    x[[3, 700]], x[701] = np.nan, np.inf
    clean[[3, 700, 701]] = 0
    s = Session(model)
    y = np.concatenate((s.feed(x), s.flush()))
    assert np.array_equal(y, whole(model, clean[None])[0])
    assert s.cleaned == 3
    assert np.isnan(x[3])  # the caller's array is the caller's


def test_huge_values_are_no_nan(model):
    s = Session(model)
    y = np.concatenate((s.feed(np.full(600, 2**31, np.float32)), s.flush()))
    assert s.cleaned == s.faults == 0
    assert y[-1] == pytest.approx(2**31)


def test_garbage_is_silence(model, noise):
    """What no integer format can hold comes of misread bytes; a model that heard it would not forget it."""
    x = noise(1, 3000)[0]
    clean, x[1000:1010], x[2000] = x.copy(), 1e30, -1e12
    clean[[*range(1000, 1010), 2000]] = 0
    s = Session(model)
    assert np.array_equal(np.concatenate((s.feed(x), s.flush())), whole(model, clean[None])[0])
    assert s.cleaned == 11


def test_a_model_that_fails_recovers(tmp_path, toys, noise):
    """The eighth power of 1e9 overflows to infinity in this graph's state and would stay there for ever."""
    import onnx
    from onnx import helper

    model = onnx.load(toys.build(tmp_path / "a.onnx"))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.output[0] == "next_state_f32":
            node.input[1] = "eighth"
            for a, b in (("l_end", "square"), ("square", "fourth"), ("fourth", "eighth")):
                model.graph.node.append(helper.make_node("Mul", [a, a], [b]))
        model.graph.node.append(node)
    onnx.save(model, tmp_path / "a.onnx")
    s = Session(Artifact.load(tmp_path / "a.onnx"), channels=2)
    loud = noise(2, 256)
    loud[1] = 1e9
    for block in (loud, *(noise(2, 256, n) for n in range(6))):
        assert np.isfinite(s.feed(block)).all()
    assert s.faults >= 1
    assert np.abs(s.feed(noise(2, 256))).max() > 0.01


def test_many_sessions_share_one_graph(model, noise):
    sessions = [Session(model) for _ in range(3)]
    xs = [noise(1, 2000, n) for n in range(3)]
    parts = [[] for _ in sessions]
    for n in range(0, 2000, 250):
        for s, x, p in zip(sessions, xs, parts, strict=True):
            p.append(s.feed(x[0, n : n + 250]))
    for s, x, p in zip(sessions, xs, parts, strict=True):
        assert np.array_equal(np.concatenate([*p, s.flush()]), whole(model, x)[0])


def test_by_name_the_rate_chooses(toy):
    assert Session(toy, sample_rate=44100).artifact.sample_rate == 48000
    assert Session(toy, sample_rate=16000).artifact.sample_rate == 16000
    assert Session(toy).artifact.sample_rate == 48000


def test_works_without_torch(toy16):
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'scipy', 'librosa', 'torchaudio'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from audiomask.cli import bench, enhance, models, stream\n"
        "from audiomask.runtime.session import Session\n"
        "s = Session(sys.argv[1], sample_rate=48000)\n"
        "print(len(s.feed(np.zeros(10000))) + len(s.flush()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(toy16)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "10000\n"


def test_silence_leaves_zeros_and_no_denormal_numbers(tmp_path, toys, noise):
    """Rounded, .999 times the smallest numbers is themselves for ever, and on them many processors crawl."""
    s = Session(toys.build(tmp_path / "a.onnx", pole=0.999))
    s.feed(noise(1, 4096)[0])
    zeros, seconds = np.zeros(64 * 256, np.float32), 0
    while s.engine.state[0].any():
        s.feed(zeros)
        seconds += 1
        assert seconds < 10
        assert not np.abs(s.engine.state[0][s.engine.state[0] != 0]).min(initial=1) < 1e-30
    for _ in range(60):
        assert not s.feed(zeros).any()
    x = noise(1, 4096)[0]
    np.testing.assert_allclose(s.feed(x)[256:], toys.lowpass(x, 0.999)[:-256], atol=1e-6)


def test_a_state_that_overflows_is_renewed_though_its_output_is_sound(tmp_path, toys, noise):
    """An infinite level in a state may mute a model for ever without a NaN in what it puts out."""
    s, x = Session(toys.build(tmp_path / "a.onnx", delay=512)), noise(1, 2048)[0]
    s.feed(x)
    s.engine.state[0][0, 300] = np.inf  # comes out of the delay line with the next hop but one
    s.feed(x[:256])
    assert s.faults == 1
    assert np.isfinite(s.engine.state[0]).all()
    s.feed(x)
    assert s.faults == 1
