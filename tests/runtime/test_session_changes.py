"""audiomask.runtime.session: what changes while sound is running does not click, and is exact afterwards."""

import threading

import numpy as np
import pytest
from options import keywords

from audiomask.runtime import engine
from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.crossfade import Ramp
from audiomask.runtime.session import Session

RAMP_MS = 10


@pytest.fixture(scope="module")
def muffler(tmp_path_factory, toys):
    """At strength 1 a tone of 500 Hz nearly vanishes; at 0 it passes."""
    path = tmp_path_factory.mktemp("muffler") / "muffler.onnx"
    return Artifact.load(toys.build(path, name="muffler", pole=0.995))


@pytest.fixture(scope="module")
def quick(tmp_path_factory, toys):
    """The same with hops of 2 ms, so that a ramp takes several."""
    path = tmp_path_factory.mktemp("quick") / "quick.onnx"
    return Artifact.load(toys.build(path, name="quick", pole=0.995, hop=32, delay=64))


def tone(samples):
    """500 Hz at full scale, with its peaks where hops begin: there a jump would be greatest."""
    return np.cos(2 * np.pi * 500 * np.arange(samples) / 16000).astype(np.float32)


def play(session, x, changes=(), block=160):
    """``x [T]`` through a session; ``changes``: pairs of a position and controls. Returns as many samples."""
    parts, changes = [], dict(changes)
    for n in range(0, len(x), block):
        for at in [at for at in changes if at <= n]:
            session.set(**keywords(changes.pop(at)))
        parts.append(session.feed(x[n : n + block]))
    return np.concatenate([*parts, session.flush()])[: len(x) + session.lag]


def steepest(x):
    return np.abs(np.diff(x)).max()


SLOPE = 2 * np.pi * 500 / 16000  # of a full-scale tone


@pytest.mark.parametrize("name", ["muffler", "quick", "sieve_16k"])
@pytest.mark.parametrize(
    ("before", "change"),
    [
        ({}, {"strength": 0.0}),
        ({"strength": 0.0}, {"strength": 1.0}),
        ({}, {"bypass": True}),
        ({}, {"dry": 1}),
    ],
)
@pytest.mark.parametrize("block", [37, 160, 4096])
def test_a_full_jump_does_not_click(name, before, change, block, request):
    model = resolve(name)[0] if name == "sieve_16k" else request.getfixturevalue(name)
    x = tone(12288)
    y = play(Session(model, **keywords(before)), x, [(4096, change)], block)
    ramp = 1 / (RAMP_MS * 16)
    assert steepest(y[500:]) <= (SLOPE + ramp) * 1.1
    after = play(Session(model, **keywords(before | change)), x, block=block)
    assert np.abs(y - after)[7000:].max() < 1e-5  # and it has happened


@pytest.mark.parametrize("name", ["muffler", "quick"])
def test_a_control_on_the_move_does_not_click(name, request):
    x = tone(16000)
    moves = [(n, {"strength": float(n // 50 % 2)}) for n in range(3000, 12000, 50)]
    y = play(Session(request.getfixturevalue(name)), x, moves, 50)
    assert steepest(y[500:]) <= (SLOPE + 1 / (RAMP_MS * 16)) * 1.1


@pytest.mark.parametrize("name", ["muffler", "quick"])
@pytest.mark.parametrize("block", [100, 8192])
def test_after_the_ramp_it_is_exact(name, block, request, toys, noise):
    model, x = request.getfixturevalue(name), noise(1, 16384)[0]
    y = play(Session(model), x, [(8192, {"strength": 0.25})], block)
    low = toys.lowpass(x, 0.995)
    border = 8192 - model.delay  # outputs of the hops that begin at the change or later
    np.testing.assert_allclose(y[: border - model.hop], low[: border - model.hop], atol=1e-6)
    after = border + 2 * max(model.hop, RAMP_MS * 16)
    np.testing.assert_allclose(y[after:], (0.25 * low + 0.75 * x)[after:], atol=1e-6)
    assert np.abs(y - low)[after:].max() > 0.01


def test_a_constant_control_changes_no_bit(muffler, noise, monkeypatch):
    x, call = noise(1, 9000)[0], engine._call
    monkeypatch.setattr(engine, "_call", lambda steps: call(steps) if len(steps) == 1 else pytest.fail("two"))
    plain = play(Session(muffler, controls={"strength": 0.7}, dry=0.1), x)
    same = [(n, {"strength": 0.7, "dry": 0.1, "bypass": False}) for n in range(160, 9000, 160)]
    assert np.array_equal(play(Session(muffler, controls={"strength": 0.7}, dry=0.1), x, same), plain)
    back = [
        (1600, {"strength": 0.1, "dry": 1}),
        (1601, {"strength": 0.7, "dry": 0.1}),
    ]  # in between, no sound
    assert np.array_equal(play(Session(muffler, controls={"strength": 0.7}, dry=0.1), x, back), plain)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_before_the_first_sound_nothing_is_ramped(muffler, noise, rate):
    x = noise(1, 5000)[0]
    s = Session(muffler, sample_rate=rate)
    s.set({"strength": 0.2}, dry=0.3)
    first = play(s, x)
    assert np.array_equal(
        first, play(Session(muffler, sample_rate=rate, controls={"strength": 0.2}, dry=0.3), x)
    )
    s.feed(x)
    s.set({"strength": 0.9}, dry=0.0, bypass=True)
    s.reset()
    s.set({"strength": 0.2}, dry=0.3, bypass=False)
    assert np.array_equal(play(s, x), first)


@pytest.mark.parametrize(("rate", "trim"), [(16000, True), (44100, True), (48000, False)])
def test_bypass_keeps_the_delay_and_the_model_listening(muffler, noise, rate, trim):
    x = noise(1, rate // 2)[0]
    make = lambda **o: Session(muffler, sample_rate=rate, trim=trim, block=160, **o)  # noqa: E731
    s = make()
    on, off = 160 * 20, 160 * 60
    y, never = play(s, x, [(on, {"bypass": True}), (off, {"bypass": False})]), play(make(), x)
    assert y.shape == never.shape
    ramp, late = RAMP_MS * rate // 1000 + 1, s.latency + 160
    assert np.array_equal(y[: on - late], never[: on - late])
    between = slice(on + ramp + s.lag, off - late)
    dry = np.concatenate((np.zeros(s.lag, np.float32), x))
    assert np.array_equal(y[between], dry[between])
    assert np.array_equal(y[off + ramp + s.lag :], never[off + ramp + s.lag :])
    assert np.array_equal(play(make(bypass=True), x)[s.lag :], x)


def test_bypass_remembers_the_dry_share(muffler, noise):
    x = noise(1, 9000)[0]
    s = Session(muffler, dry=0.5)
    y = play(s, x, [(1600, {"bypass": True}), (4800, {"bypass": False})])
    np.testing.assert_array_equal(y[6000:], play(Session(muffler, dry=0.5), x)[6000:])
    assert (s.dry, s.bypass) == (0.5, False)


@pytest.mark.parametrize("name", ["muffler", "quick"])
def test_a_snapshot_in_the_middle_of_a_change(name, request, noise):
    model, x = request.getfixturevalue(name), noise(2, 6000)
    s = Session(model, channels=2, sample_rate=48000)
    s.feed(x[:, :3000])
    s.set({"strength": [0.0, 0.5]}, dry=0.4)
    parts = [s.feed(x[:, 3000:3200])]
    s.set({"strength": 0.7}, bypass=True)
    saved = s.snapshot()
    first = np.concatenate((s.feed(x[:, 3200:]), s.flush()), axis=1)
    for other in (s, Session(model, channels=2, sample_rate=48000)):
        other.restore(saved)
        again = np.concatenate((other.feed(x[:, 3200:]), other.flush()), axis=1)
        assert np.array_equal(again, first)
        assert (other.dry, other.bypass) == (0.4, True)
    assert parts[0].shape[1] > 0


def test_a_value_that_its_port_cannot_hold_is_refused(toy16, toys, tmp_path):
    """Not cut to a whole number, and not turned into infinity."""
    inputs = toys.document()["inputs"]
    del inputs[1]["maximum"]
    s = Session(toys.build(tmp_path / "open.onnx", inputs=inputs))
    with pytest.raises(ArtifactError, match=r"strength = 1e\+39 does not fit a float32"):
        s.set({"strength": 1e39})
    s = Session(toy16)
    s.engine.controls["strength"] = np.zeros(1, np.int64)
    assert s.engine.control("strength", 1.0) == 1
    with pytest.raises(ArtifactError, match=r"strength = 0.5 does not fit a whole number"):
        s.set({"strength": 0.5})


def test_a_wrong_control_changes_none(muffler, noise):
    s, x = Session(muffler), noise(1, 3000)[0]
    with pytest.raises(ArtifactError, match="strength = 2 is outside"):
        s.set({"strength": 2}, dry=1, bypass=True)
    assert (s.dry, s.bypass) == (0.0, False)
    assert np.array_equal(play(s, x), play(Session(muffler), x))


def test_a_ramp_arrives_exactly():
    ramp = Ramp(1 / 7)
    ramp.target = 0.3
    values = np.concatenate([np.atleast_1d(ramp.take(1)) for _ in range(4)])
    np.testing.assert_allclose(values, [1 / 7, 2 / 7, 0.3, 0.3], rtol=1e-6)
    assert ramp.take(5) == 0.3
    ramp.target = 0.0
    assert ramp.take(0) == 0.3
    np.testing.assert_allclose(ramp.take(4), [0.3 - 1 / 7, 0.3 - 2 / 7, 0, 0], atol=1e-7)
    assert ramp.take(3) is None


def test_another_thread_may_turn_controls(muffler, noise):
    """Whatever happens at the same time, the last value set is the one that holds in the end."""
    x, stop = noise(1, 1600)[0], threading.Event()
    s = Session(muffler)

    def turn():
        rng = np.random.default_rng(0)
        while not stop.is_set():
            s.set({"strength": float(rng.integers(0, 2))}, dry=float(rng.integers(0, 2)))

    thread = threading.Thread(target=turn)
    thread.start()
    for _ in range(100):
        assert np.isfinite(s.feed(x)).all()
    stop.set()
    thread.join()
    s.set({"strength": 0.0}, dry=0.0)
    s.feed(x)
    tail = np.concatenate((s.feed(x), s.flush()))[-1600:]
    np.testing.assert_allclose(tail, x, atol=1e-6)
