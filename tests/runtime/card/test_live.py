"""audiomask.runtime.card.live: the lag stays what it is set to, whatever devices and model do."""

import threading

import numpy as np
import pytest
from fake_cards import UNIT, FakeCard, Simulation, lags

from audiomask.audio import read
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.card.live import DeviceError, Live, least_buffer
from audiomask.runtime.card.recorder import Recorder
from audiomask.runtime.session import Session

BLOCK, BUFFER, RATE = 256, 640, 16000
LAG = (BUFFER + 256) / RATE  # the model of these tests delays by 256


@pytest.fixture(scope="module")
def delay(tmp_path_factory, toys):
    """A model that gives back what it gets, 256 samples later."""
    return Artifact.load(toys.build(tmp_path_factory.mktemp("delay") / "delay.onnx", pole=None))


@pytest.fixture
def rig(delay):
    """``rig(source options, sink options)``: a simulation, a running `Live`, and its two cards."""

    def make(source=None, sink=None, buffer=BUFFER, session=None, **options):
        sim = Simulation()
        session = session or Session(delay, trim=False, block=BLOCK)
        live = Live(session, BLOCK, buffer, clock=sim.clock, **options)
        cards = FakeCard(sim, "input", **(source or {})), FakeCard(sim, "output", **(sink or {}))
        sim.worker = live.pump
        live.start(*cards)
        return sim, live, *cards

    return make


def lost(y):
    """Samples of the count that are missing in what was played, from the first to the last."""
    n = np.rint(y[y > 0].astype(np.float64) / UNIT)
    return int(n[-1] - n[0] + 1 - len(n))


def settled(source, sink, seconds=1.0):
    """The lags of the last seconds."""
    late = lags(source, sink)[-int(seconds * RATE) :]
    assert np.isfinite(late).all()
    return late


@pytest.mark.parametrize("phase", [0.0, 0.003, 0.0159])
def test_undisturbed_every_sample_is_played_at_the_set_lag(rig, phase):
    sim, live, source, sink = rig(sink={"phase": phase, "channels": 2})
    sim.advance(20)
    y = sink.output()
    first = np.flatnonzero(y)[0]
    assert lost(y[first + 100 :]) == 0
    assert np.abs(np.diff(y[first + 100 :]) / UNIT - 1).max() == 0
    assert np.abs(settled(source, sink) - LAG).max() < 1.5 / RATE
    assert live.status().lag / RATE == pytest.approx(LAG, abs=1.5 / RATE)
    c = live.counts
    assert (c.overflows, c.underflows, c.recovered, c.splices, c.lost_in, c.silent) == (0,) * 6
    assert np.array_equal(sink.played[-1][0], sink.played[-1][1])
    assert first / RATE < LAG + 3 * BLOCK / RATE


def test_what_is_played_equals_the_offline_result(rig, toy16, noise):
    """At the set lag, after the fade of the start."""
    x = noise(1, 10 * RATE)[0]
    session = Session(toy16, trim=False, block=BLOCK)
    sim, live, _, sink = rig({"sound": lambda n: x[n]}, session=session)
    sim.advance(9)
    offline = Session(toy16)
    want = np.concatenate((offline.feed(x), offline.flush()))
    y = sink.output()[live.lag :]
    assert np.abs(y[500:] - want[500 : len(y)]).max() <= 1e-5 * np.abs(want).max()


def test_a_loudspeaker_that_starts_late(rig):
    """What was recorded before is too old to be played, and not counted as lost."""
    sim, live, source, sink = rig(sink={"phase": 1.0})
    sim.advance(4)
    assert np.abs(settled(source, sink) - LAG).max() < 1.5 / RATE
    assert live.counts.lost_out == live.counts.recovered == live.counts.silent == 0


@pytest.mark.parametrize(
    ("what", "source", "sink"),
    [
        ("the model", {}, {}),
        ("the microphone, which then gives all at once", {"late": (5, 5.3)}, {}),
        ("the microphone, which lost it", {"lost": (5, 5.3)}, {}),
        ("the loudspeaker, which then asks for all at once", {}, {"late": (5, 5.3)}),
        ("the loudspeaker, which lost it", {}, {"lost": (5, 5.3)}),
    ],
)
def test_a_stall_costs_what_stalled_and_no_lag(rig, what, source, sink):
    sim, live, source, sink = rig(source, sink)
    if what == "the model":
        sim.stalls = [(5, 5.3)]
    sim.advance(5.3)
    sim.advance(1.0)
    assert np.abs(settled(source, sink, 0.3) - LAG).max() < 0.001, what
    sim.advance(3.7)
    y = sink.output()
    assert np.abs(settled(source, sink, 3) - LAG).max() < 0.001
    assert live.status().lag / RATE == pytest.approx(LAG, abs=0.001)
    # The sound that stalled, and what one callback and one fade may hold.
    assert lost(y) <= 0.3 * RATE + 2 * BLOCK
    dumb = np.isnan(y[RATE:]).sum() + (y[RATE:] == 0).sum()
    assert dumb <= 0.3 * RATE + BUFFER + 2 * BLOCK
    assert live.counts.splices == 0


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.5, 5.0])
def test_a_stalled_model_catches_up(rig, seconds):
    """Also beyond the room of the ring: what it could not take is counted."""
    sim, live, source, sink = rig()
    sim.stalls = [(5, 5 + seconds)]
    sim.advance(5 + seconds + 0.2)
    assert np.abs(settled(source, sink, 0.1) - LAG).max() < 0.001
    sim.advance(2)
    assert lost(sink.output()) <= seconds * RATE + 2 * BLOCK
    assert (live.counts.overflows > 0) == (seconds > 2.1)
    assert live.counts.underflows == 1


def test_a_loudspeaker_that_stalls_for_longer_than_there_is_room(rig):
    sim, live, source, sink = rig(sink={"lost": (5, 10)})
    sim.advance(13)
    assert np.abs(settled(source, sink) - LAG).max() < 0.001
    assert live.counts.lost_out == pytest.approx(5 * RATE, abs=2 * BLOCK)


@pytest.mark.parametrize("ppm", [200, -200])
@pytest.mark.parametrize("side", ["source", "sink"])
def test_clocks_that_drift_apart(rig, side, ppm):
    """Three minutes at 200 ppm are 36 ms: never silent, never dropped at once, always near the set lag."""
    sim, live, source, sink = rig(**{side: {"ppm": ppm, "jitter": 0.002}})
    sim.advance(180)
    late = lags(source, sink)
    first = np.flatnonzero(np.isfinite(late))[0]
    off = np.abs(late[first + RATE * 5 :] - LAG)
    assert np.isfinite(off).all()
    assert off.max() < 0.005
    assert 12 <= live.counts.splices <= 24  # 2 ms each
    c = live.counts
    assert (c.overflows, c.underflows, c.recovered, c.lost_in, c.silent) == (0,) * 5


def test_without_its_splices_the_drift_would_win(rig, monkeypatch):
    """What the test above would see if nothing were corrected."""
    monkeypatch.setattr(Live, "_steady", lambda self, y: y)
    sim, _, source, sink = rig(source={"ppm": 200})
    sim.advance(180)
    assert settled(source, sink).min() > LAG + 0.03


def test_late_callbacks_are_borne(rig):
    """Up to 8 ms late each, which is what the buffer holds beyond its two blocks."""
    sim, live, source, sink = rig({"jitter": 0.008, "seed": 1}, {"jitter": 0.008, "seed": 2}, BUFFER + 64)
    sim.advance(60)
    c = live.counts
    assert (c.overflows, c.underflows, c.recovered, c.silent) == (0,) * 4
    assert c.splices <= 3  # the start fell on a late callback
    assert np.abs(settled(source, sink, 50) - LAG - 64 / RATE).max() < 0.004


def test_a_device_that_changes_its_chunks(rig):
    """Chunks of any size: the lag is raised to what the longest need, once, and then kept."""
    source, sink = {"chunk": (64, 512, 100, 256, 1)}, {"chunk": (480, 33, 1024)}
    sim, live, source, sink = rig(source, sink)
    sim.advance(3)
    assert live.buffer == least_buffer(BLOCK, 512, 1024, even=False) == 512 + 1024 + BLOCK - 1
    counts = (live.counts.underflows, live.counts.recovered)
    sim.advance(30)
    assert (live.counts.underflows, live.counts.recovered) == counts
    assert np.abs(settled(source, sink, 20) - live.lag / RATE).max() < 0.004


@pytest.mark.parametrize(("speed", "heard"), [(1.05, 0.15), (2.0, 0.1)])
def test_a_model_that_is_too_slow_does_not_fall_behind(rig, speed, heard):
    """Work for longer than the sound takes: much of it is lost, the rest is late by what is cut out of it."""
    sim, live, source, sink = rig()
    real = live.session.feed

    def slow(x):
        sim.advance(speed * BLOCK / RATE)
        return real(x)

    live.session.feed = slow
    sim.worker = live.step
    sim.advance(30)
    assert live.counts.recovered > 10
    assert live.status().speed == pytest.approx(speed, rel=0.02)
    late = lags(source, sink)[1:][np.diff(sink.output()) == UNIT]  # but for the fades
    assert len(late) / RATE > 30 * heard
    assert np.nanmax(late) < speed * LAG + 4 * BLOCK / RATE


def test_speed_is_the_share_of_the_block(rig):
    sim, live, *_ = rig()
    real = live.session.feed

    def feed(x):
        sim.advance(0.004)
        return real(x)

    live.session.feed = feed
    sim.advance(2)
    assert live.status().speed == pytest.approx(0.25, abs=0.01)


def test_levels(rig):
    sim, live, *_ = rig({"sound": lambda n: 0.5 * np.sin(n)})
    sim.advance(1)
    status = live.status()
    assert status.running
    assert status.peak_in == pytest.approx(0.5, rel=1e-3)
    assert status.peak_out == pytest.approx(0.5, rel=1e-3)
    assert live.status().peak_in == 0


def test_values_that_are_no_sound(rig, tmp_path):
    """A broken driver: they are counted, and harm neither levels, recordings nor output."""
    recorder = Recorder(tmp_path / "in.wav", RATE, 1)
    rot = {50: np.nan, 51: np.inf, 52: -np.inf}
    sound = {"sound": lambda n: np.array([rot.get(i, 0.1) for i in n])}
    sim, live, *_ = rig(sound, record_in=recorder)
    sim.advance(0.2)
    assert live.status().peak_in < 1
    recorder.close()
    assert np.abs(read(tmp_path / "in.wav")[0]).max() <= 1
    assert live.session.cleaned == 3


def test_controls_change_between_blocks(rig):
    sim, live, *_ = rig()
    sim.advance(1)
    live.set(bypass=True)
    sim.advance(1)
    assert live.session.bypass
    live.set(dry=7)
    with pytest.raises(Exception, match="dry = 7 is outside 0 to 1"):
        sim.advance(1)


@pytest.mark.parametrize("side", ["source", "sink"])
@pytest.mark.parametrize("tells", [True, False])
def test_a_device_that_leaves_is_named(rig, tmp_path, side, tells):
    """Whether the system tells or not; the recordings are whole."""
    records = {f"record_{d}": Recorder(tmp_path / f"{d}.wav", RATE, 1) for d in ("in", "out")}
    sim, live, *_ = rig(**{side: {"dies": 3.0, "tells": tells, "name": "USB Thing"}}, **records)
    sim.advance(2.9)
    live.check()
    sim.advance(2.3)
    with pytest.raises(DeviceError, match=r"^USB Thing: the sound device is gone .*--list-devices"):
        live.check()
    live.stop()
    assert sim.cards == []
    for record in records.values():
        assert not any(note.startswith("warning") for note in record.close())
    x, rate = read(tmp_path / "in.wav")
    assert rate == RATE
    assert abs(x.shape[1] / RATE - (3.0 if side == "source" else 5.2)) < 0.05
    assert not list(tmp_path.glob(".*"))


def test_a_device_that_comes_back(rig):
    sim, live, source, sink = rig({"dies": 3.0})
    sim.advance(4)
    live.stop()
    sim.advance(1)
    source, sink = FakeCard(sim, "input"), FakeCard(sim, "output")
    live.start(source, sink)
    sim.advance(3)
    live.check()
    assert np.abs(settled(source, sink) - LAG).max() < 0.001
    assert live.seconds == pytest.approx(6.0, abs=0.05)


def test_a_new_start_waits_for_the_block_that_is_computed(rig):
    """Else its sound would be played when the devices are back, as if it were new."""
    sim, live, *_ = rig()
    live.stop()
    entered, go, real = threading.Event(), threading.Event(), live.session.feed

    def slow(x):
        entered.set()
        assert go.wait(20)
        return real(x)

    live.session.feed = slow
    live._in.write(np.ones((1, BLOCK), np.float32))
    step = threading.Thread(target=live.step)
    step.start()
    assert entered.wait(20)
    start = threading.Thread(target=live.start, args=(FakeCard(sim, "input"), FakeCard(sim, "output")))
    start.start()
    start.join(0.2)
    go.set()
    for thread in (step, start):
        thread.join(20)
    assert live._out.fill == 0


def test_a_second_device_that_does_not_open_closes_the_first(delay):
    class Broken(FakeCard):
        def start(self, callback, ended):
            raise DeviceError("broken: cannot be opened")

    sim = Simulation()
    live = Live(Session(delay, trim=False, block=BLOCK), BLOCK, BUFFER, clock=sim.clock)
    with pytest.raises(DeviceError, match="broken"):
        live.start(FakeCard(sim, "input"), Broken(sim, "output"))
    assert sim.cards == []


def test_what_the_worker_raises_reaches_the_owner(rig):
    sim, live, *_ = rig()
    sim.worker = lambda: None
    sim.advance(0.1)

    def broken(x):
        raise RuntimeError("the model broke")

    live.session.feed = broken
    live.work(threading.Event())
    with pytest.raises(RuntimeError, match="the model broke"):
        live.check()


def test_recordings_are_what_was_heard_and_said(rig, tmp_path):
    """Sample for sample, also what a stall made too late to play."""
    records = {f"record_{d}": Recorder(tmp_path / f"{d}.wav", RATE, 1, block=BLOCK) for d in ("in", "out")}
    sim, live, *_ = rig({"sound": lambda n: np.rint(8192 * np.sin(n / 9.0)) / 32768}, **records)
    sim.stalls = [(5, 5.3)]
    sim.advance(10)
    live.stop()
    for record in records.values():
        record.close()
    x = read(tmp_path / "in.wav")[0][0]
    assert np.array_equal(x, (np.rint(8192 * np.sin(np.arange(len(x)) / 9.0)) / 32768).astype(np.float32))
    assert len(x) >= 9.9 * RATE
    y = read(tmp_path / "out.wav")[0][0]
    assert np.array_equal(y[256 : 4 * RATE], x[: 4 * RATE - 256])
    assert len(x) - len(y) == live.counts.lost_in


def test_a_trimming_session_is_refused(delay):
    with pytest.raises(ValueError, match="trim=False"):
        Live(Session(delay), BLOCK, BUFFER)
