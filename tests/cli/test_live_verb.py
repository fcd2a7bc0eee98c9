"""audiomask live: devices, the line, keys and recordings, with sound cards on simulated time."""

import builtins
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_artifacts
from fake_cards import FakeCard, Simulation

from audiomask.audio import read
from audiomask.cli import live as verb
from audiomask.runtime.card import portaudio
from audiomask.runtime.card.live import Live, Status
from audiomask.runtime.session import Session

RATE = 16000
MICROPHONE = {"name": "USB Mic", "max_input_channels": 2, "max_output_channels": 0}
HEADPHONE = {"name": "Headphones", "max_input_channels": 0, "max_output_channels": 2}
BOTH = {"name": "USB Headset", "max_input_channels": 1, "max_output_channels": 2}
DEVICES = [{"hostapi": 0, "default_samplerate": 16000.0, **d} for d in (MICROPHONE, HEADPHONE, BOTH)]


class PortAudioError(Exception):
    pass


class FakePortAudio:
    """What the verb needs of the module sounddevice, with `FakeCard`s below. ``inputs``, ``outputs``: options
    of one card after the other that is opened; ``events``: functions to call at a time."""

    PortAudioError = PortAudioError

    def __init__(self, sim, devices=DEVICES, default=(0, 1)):
        self.sim, self.devices = sim, devices
        self.default = SimpleNamespace(device=list(default))
        self.options = {"input": [], "output": []}
        self.opened = []
        self.scans = 0
        self.failures = ()  # scans at which it does not start
        self.refuse = None

    def query_hostapis(self):
        return [{"name": "FakeAPI"}]

    def query_devices(self):
        if self.devices is None:
            raise PortAudioError("Error querying device")
        return self.devices

    def check_input_settings(self, device, channels, dtype, samplerate):
        if samplerate not in self.devices[device].get("rates", [8000, 16000, 44100, 48000]):
            raise PortAudioError("Invalid sample rate")

    check_output_settings = check_input_settings

    def _initialize(self):
        self.scans += 1
        if self.scans in self.failures:
            raise PortAudioError("Host error")

    def _terminate(self):
        if self.scans in self.failures:
            raise PortAudioError("PortAudio not initialized")

    def _stream(self, kind, device, samplerate, channels, blocksize, dtype, latency, callback, **rest):
        if self.refuse:
            raise PortAudioError(self.refuse)
        options = self.options[kind].pop(0) if self.options[kind] else {}
        card = FakeCard(self.sim, kind, rate=samplerate, channels=channels, chunk=(blocksize,), **options)
        self.opened.append((kind, device, samplerate, channels, blocksize))
        setattr(self, kind, card)
        status = SimpleNamespace(input_overflow=False, output_underflow=False)

        def heard(data, xrun):
            callback(data.T, data.shape[1], None, status)

        return SimpleNamespace(
            latency=0.004,
            start=lambda: card.start(heard, rest["finished_callback"]),
            close=lambda ignore_errors: card.stop(),
        )

    def InputStream(self, **options):
        return self._stream("input", **options)

    def OutputStream(self, **options):
        return self._stream("output", **options)


@pytest.fixture
def desk(monkeypatch, tmp_path):
    """The verb on simulated time: its `sd`, `sim`, the `keys` that will be pressed (time, key), and `seen`,
    the lines that it showed."""
    sim = Simulation()
    sd = FakePortAudio(sim)
    desk = SimpleNamespace(sim=sim, sd=sd, keys=[], seen=[], live=None)

    def key(seconds):
        sim.advance(seconds)
        if sim.now > 3600:
            raise AssertionError("an hour, and no end")
        if desk.keys and desk.keys[0][0] <= sim.now:
            pressed = desk.keys.pop(0)[1]
            return pressed() or "" if callable(pressed) else pressed
        return ""

    @contextmanager
    def keys():
        yield key

    @contextmanager
    def screen(quiet):
        yield desk.seen.append

    @contextmanager
    def worker(live):
        sim.worker, desk.live = live.pump, live
        yield

    monkeypatch.setattr(portaudio, "load", lambda: desk.sd)
    for name, fake in (("keys", keys), ("screen", screen), ("_worker", worker), ("_clock", sim.clock)):
        monkeypatch.setattr(verb, name, fake)
    monkeypatch.chdir(tmp_path)
    return desk


@pytest.fixture
def delay(tmp_path_factory, toys):
    return toys.build(tmp_path_factory.mktemp("delay") / "delay.onnx", name="delay", pole=None)


def test_sound_goes_through_and_is_recorded(cli, desk, delay):
    done = cli("live", "-m", delay, "--seconds", 3, "--record-in", "in.wav", "--record-out", "out.wav")
    assert done.code == 0, done.err
    assert desk.sd.opened == [("input", 0, RATE, 1, 256), ("output", 1, RATE, 2, 256)]
    x, y = read("in.wav")[0][0], read("out.wav")[0][0]
    assert len(x) == len(y) >= 3 * RATE - 256
    assert np.array_equal(y[256:], x[:-256])
    played = desk.sd.output.output()
    assert np.count_nonzero(played) > 2.9 * RATE - 1500
    assert sorted(p.name for p in Path().iterdir()) == ["in.wav", "out.wav"]
    assert "in.wav: 3." in done.err
    assert "0 input overflows, 0 output underflows (0 ms of silence), lag mended 0 times" in done.err
    # 2 blocks, half a one for jitter, and the delay of the model
    line = desk.seen[-1]
    assert "lag 56/56 ms" in line
    assert "speed 0.00" in line
    assert "xruns 0 in 0 out 0 mended" in line


def test_stems_are_turned(cli, desk, tmp_path):
    """A model of two channels plays a microphone of one, whose sound loses half of one stem."""
    model = small_artifacts.build(tmp_path, "cinema", task="separate")
    words = ["live", "-m", model, "--channels", 1, "--rate", RATE, "--record-in", "in.wav", "--seconds", 2]
    done = cli(*words, "--record-out", "out.wav", "--gains", "music=-inf")
    assert done.code == 0, done.err
    x, y = read("in.wav")[0][0], read("out.wav")[0][0]
    lag = desk.live.session.lag
    assert np.abs(x).max() > 1e-3
    np.testing.assert_allclose(y[lag:], x[: len(x) - lag] / 2, atol=2 / 32768)
    done = cli("live", "-m", model, "--gains", "choir=1")
    assert (done.code, "no model makes choir; there are cinema" in done.err) == (1, True)
    done = cli("live", "-m", model, "--gains", "music=1", "--model-output", "speech")
    assert (done.code, "--model-output speech: is one sound by itself" in done.err) == (2, True)


def test_every_millisecond_of_the_lag_is_explained(cli, desk, delay):
    """The rows add up, and ours to the lag that is kept."""
    err = cli("live", "-m", delay, "--seconds", 1, "--rate", 48000, "--block", 10).err
    rows = {}
    for text in err.splitlines():
        words = text.split()
        for name in ("capture", "block", "compute", "model", "hop", "buffer", "play"):
            if words and words[0] == name:
                rows[name] = float(words[1])
        if words[:2] == ["in", "all"]:
            rows["in all"], ours = float(words[2]), float(text.split("of it ")[1].split()[0])
    assert len(rows) == 8, err
    assert rows["capture"] == rows["play"] == 4.0
    assert rows["block"] == 10.0
    assert sum(v for k, v in rows.items() if k != "in all") == pytest.approx(rows["in all"], abs=0.4)
    assert rows["in all"] - 8.0 == pytest.approx(ours, abs=0.11)
    assert f"/{ours:.0f} ms" in desk.seen[-1]


@pytest.mark.parametrize(
    ("rates", "rate"), [([16000, 48000], 48000), ([16000, 44100], 16000), ([44100], 44100)]
)
def test_the_rate_is_the_models_where_both_devices_take_it(cli, desk, toy, rates, rate):
    microphone = {**DEVICES[0], "default_samplerate": 44100.0}
    desk.sd.devices = [microphone, {**DEVICES[1], "rates": rates}]
    assert cli("live", "-m", toy, "--seconds", 0.5).code == 0
    assert {o[2] for o in desk.sd.opened} == {rate}


def test_the_lag_can_be_set(cli, desk, delay):
    assert cli("live", "-m", delay, "--seconds", 2, "--lag", 100).code == 0
    assert "lag 100/100 ms" in desk.seen[-1]
    done = cli("live", "-m", delay, "--lag", 20, "--record-in", "x.wav")
    assert done.code == 2
    assert "--lag 20.0: delay takes 16.0 ms and two blocks 32.0; give at least 48" in done.err
    assert not list(Path().iterdir())


def test_keys(cli, desk, toy16):
    bypassed = []

    def look():
        bypassed.append(desk.live.session.bypass)

    desk.keys = [(1.0, "b"), (1.3, look), (1.5, " "), (1.8, look)]
    desk.keys += [(2.0, "-"), (2.2, "-"), (2.4, "+"), (2.6, "x"), (3.0, "q")]
    assert cli("live", "-m", toy16).code == 0
    assert desk.sim.now < 3.2
    assert "strength 1.00" in desk.seen[0]
    marks = ["BYPASS" in line for line in desk.seen]
    assert any(marks[9:16])
    assert not any(marks[16:])
    assert "strength 0.90" in desk.seen[-1]
    assert bypassed == [True, False]
    assert desk.live.session._target["strength"] == pytest.approx(0.9)


def test_strength_stays_in_its_range(delay):
    panel = verb.Panel(Live(Session(delay, trim=False, block=256), 256, 640))
    for _ in range(15):
        panel.press("-")
    assert panel.strength == 0.0
    for _ in range(15):
        panel.press("+")
    assert panel.strength == 1.0
    assert "cleaned" not in panel.line(Status(0, 0, 0, 0, True))
    panel.live.session.cleaned = 3
    assert "cleaned 3, faults 0" in panel.line(Status(0, 0, 0, 0, True))
    assert "filling" in panel.line(Status(0, 0, 0, 0, False))


def test_a_model_without_strength(toys, tmp_path, monkeypatch):
    panel = verb.Panel(Live(Session(toys.build(tmp_path / "m.onnx"), trim=False, block=256), 256, 640))
    panel.port = None
    assert not panel.press("+")
    assert "strength" not in panel.line(Status(0, 0, 0, 0, True))


def test_meter():
    assert verb.meter(1.0) == "##########    0 dBFS"
    assert verb.meter(10 ** (-30 / 20)) == "#####.....  -30 dBFS"
    assert verb.meter(0.0) == "..........  -60 dBFS"


@pytest.mark.parametrize("end", [KeyboardInterrupt, "Terminated"])
def test_interrupts_finish_the_recordings(cli, desk, delay, end):
    from audiomask.cli import Terminated

    def stop():
        raise KeyboardInterrupt if end is KeyboardInterrupt else Terminated

    desk.keys = [(2.0, stop)]
    done = cli("live", "-m", delay, "--record-in", "in.wav", "--record-out", "out.wav")
    assert done.code == (130 if end is KeyboardInterrupt else 143)
    for name in ("in.wav", "out.wav"):
        assert read(name)[0].shape[1] == pytest.approx(2 * RATE, abs=2000)
    assert len(list(Path().iterdir())) == 2
    assert desk.sim.cards == []
    assert "splices for drift" in done.err


@pytest.mark.parametrize("tells", [True, False])
def test_a_device_that_leaves(cli, desk, delay, tells):
    desk.sd.options["input"] = [{"dies": 2.0, "tells": tells}]
    done = cli("live", "-m", delay, "--record-out", "out.wav")
    assert done.code == 1
    assert "USB Mic: the sound device is gone" in done.err
    assert "--list-devices" in done.err
    assert read("out.wav")[0].shape[1] == pytest.approx(2 * RATE, abs=600)
    assert desk.sim.cards == []


def test_a_device_that_comes_back(cli, desk, delay):
    """It is looked for once a second; the recording goes on."""
    desk.sd.options["output"] = [{"dies": 2.0}]

    def leave():
        desk.sd.devices = [DEVICES[0]]

    def come():
        desk.sd.devices = [DEVICES[0], DEVICES[2], DEVICES[1]]  # with another number

    desk.keys = [(1.5, leave), (6.0, come), (10.0, "q")]
    desk.sd.default.device = [0, -1]
    desk.sd.devices = DEVICES
    done = cli("live", "-m", delay, "-o", "headphones", "--reconnect", "--record-in", "in.wav")
    assert done.code == 0, done.err
    assert "warning: Headphones: the sound device is gone" in done.err
    assert desk.seen.count("waiting for the device") >= 3
    assert [o[:2] for o in desk.sd.opened] == [("input", 0), ("output", 1), ("input", 0), ("output", 2)]
    assert read("in.wav")[0].shape[1] == pytest.approx(6 * RATE, abs=2000)
    assert "lag 56/56 ms" in desk.seen[-1]


def test_a_sound_system_that_comes_back(cli, desk, delay):
    """PortAudio itself fails for a while: it does not start, then it cannot list what there is."""
    desk.sd.options["output"] = [{"dies": 2.0}]
    desk.sd.failures = (1, 2)

    def fall():
        desk.sd.devices = None

    def rise():
        desk.sd.devices = DEVICES

    desk.keys = [(2.0, fall), (8.0, rise), (12.0, "q")]
    done = cli("live", "-m", delay, "--reconnect")
    assert done.code == 0, done.err
    assert desk.sd.scans >= 4
    assert len(desk.sd.opened) == 4
    desk.sd.devices = None
    done = cli("live", "-m", delay)
    assert done.code == 1
    assert "PortAudio cannot reach the sound system (Error querying device)" in done.err


def test_a_model_that_fails_on_the_last_blocks_fails_the_run(delay):
    live = Live(Session(delay, trim=False, block=256), 256, 640)

    def broken(x):
        raise RuntimeError("the model broke")

    live.session.feed = broken
    with pytest.raises(RuntimeError, match="the model broke"), verb._worker(live):
        live._in.write(np.ones((1, 256), np.float32))  # nobody looks at it until the end


def test_a_device_that_cannot_be_opened(cli, desk, delay):
    desk.sd.refuse = "Invalid sample rate"
    done = cli("live", "-m", delay, "--record-in", "in.wav", "--reconnect")
    assert done.code == 1
    assert "USB Mic: cannot be opened at 16000 Hz with 1 channel(s) (Invalid sample rate)" in done.err
    assert "its own rate is 16000 Hz (--rate)" in done.err
    assert not list(Path().iterdir())


def test_a_model_that_cannot_keep_up_is_told(cli, desk, delay, monkeypatch):
    monkeypatch.setattr(verb, "_compute", lambda session, block: 40.0)
    done = cli("live", "-m", delay, "--seconds", 1)
    assert "delay needs 40.0 ms for a block of 16.0 ms here and cannot keep up" in done.err


def test_devices_are_listed(cli, desk):
    done = cli("live", "--list-devices")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["number", "name", "system", "in", "out", "Hz", "default"]
    assert lines[1].split() == ["0", "USB", "Mic", "FakeAPI", "2", "0", "16000", "in"]
    assert len(lines) == 4


def test_a_model_that_is_told_of_losses(cli, desk, repeat16):
    done = cli("live", "-m", repeat16)
    assert done.code == 2
    assert "repeat_16k: conceals losses that it is told of; a microphone loses nothing" in done.err


def test_a_model_of_several_sounds_asks_for_one(cli, desk, tagger16, tmp_path):
    """The first was played."""
    stems = small_artifacts.build(tmp_path, "stems", small_artifacts.PLAIN)
    done = cli("live", "-m", stems, "--seconds", 1)
    assert done.code == 2
    assert "stems: makes vocals drums bass other; choose one with --model-output" in done.err
    words = ("--model-output", "bass", "--seconds", 1, "--record-in", "in.wav", "--record-out", "out.wav")
    done = cli("live", "-m", stems, *words)
    assert done.code == 0, done.err
    assert np.array_equal(read("out.wav")[0], -read("in.wav")[0])
    done = cli("live", "-m", tagger16)
    assert (done.code, "see audiomask tag --help" in done.err) == (1, True)


def test_no_device_at_all(cli, desk):
    desk.sd.devices, desk.sd.default.device = [], [-1, -1]
    for words in (["--list-devices"], []):
        done = cli("live", *words)
        assert done.code == 1
        assert "this machine has no sound device" in done.err
        assert "audiomask stream" in done.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-i", "usb"], "-i usb: fits several devices; give the number of one: 0 USB Mic (FakeAPI); 2 USB"),
        (["-i", "1"], "-i 1: is no input device here; there are: 0 USB Mic (FakeAPI); 2 USB Headset"),
        (["-o", "bluetooth"], "-o bluetooth: is no output device here; there are: 1 Headphones"),
    ],
)
def test_devices_that_are_not_there(cli, desk, words, text):
    done = cli("live", *words)
    assert done.code == 1
    assert text in done.err


def test_devices_by_number_and_name(desk):
    assert portaudio.find(desk.sd, "2", "input").name == "USB Headset"
    assert portaudio.find(desk.sd, "usb headset", "output").index == 2
    assert portaudio.find(desk.sd, None, "output").name == "Headphones"
    desk.sd.default.device = [-1, -1]
    with pytest.raises(
        portaudio.DeviceError, match="the system names no input device; name one with -i: 0 USB"
    ):
        portaudio.find(desk.sd, None, "input")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--rate", "100"], "--rate: 100 is outside 4000 to 768000 Hz"),
        (["--block", "0.1"], "--block: 0.1 is outside 1 to 1000 ms"),
        (["--block", "nan"], "--block: nan is outside"),
        (["--lag", "-1"], "--lag: -1 is outside 0 to 60000 ms"),
        (["--seconds", "0"], "--seconds: 0 is not above 0"),
        (["--record-in", "a.wav", "--record-out", "a.wav"], "are both a.wav"),
        (["--record-in", "a.wav", "--record-out", "./a.wav"], "are both a.wav"),
        (["--channels", "1000"], "--channels: 1000 is outside 1 to 128"),
    ],
)
def test_wrong_usage(cli, desk, words, text):
    done = cli("live", *words)
    assert done.code == 2
    assert text in done.err


def test_default_blocks(toys, tmp_path):
    """Whole hops of the model, 5 ms at least; a part of a hop that is very long."""
    from audiomask.runtime.artifact import Artifact

    for hop, rate, block in ((256, 16000, 256), (256, 48000, 768), (64, 16000, 128), (16000, 16000, 640)):
        path = toys.build(tmp_path / f"{hop}.onnx", hop=hop)
        assert verb._block(Artifact.load(path), rate, None) == block


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ModuleNotFoundError("No module named 'sounddevice'", name="sounddevice"),
            "needs sounddevice, which is not installed; pip install 'audiomask[live]'",
        ),
        (OSError("PortAudio library not found"), "(PortAudio library not found); install PortAudio: apt-get"),
        (PortAudioError("Error initializing PortAudio"), "PortAudio cannot reach the sound system (Error"),
    ],
)
def test_what_is_not_installed_is_named(cli, monkeypatch, error, text):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name == "sounddevice":
            raise error
        return real(name, *rest, **options)

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    for words in (["--list-devices"], []):
        done = cli("live", *words)
        assert done.code == 1
        assert text in done.err
        if sys.platform.startswith("linux") and not isinstance(error, PortAudioError):
            assert "apt-get install libportaudio2" in done.err


def test_keys_of_a_terminal(monkeypatch):
    """One at a time, without Enter; the terminal is as before afterwards."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with open(theirs, closefd=False) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        with verb.keys() as key:
            assert key(0.0) == ""
            os.write(ours, b"b+")
            assert [key(10), key(10)] == ["b", "+"]
            assert termios.tcgetattr(theirs) != before
        assert termios.tcgetattr(theirs) == before
    os.close(ours), os.close(theirs)


# A sound card that calls as fast as it is let, on threads of its own: the verb as users run it.
SOUNDDEVICE = """
import threading, time
import numpy as np

class PortAudioError(Exception): pass
class default: device = [0, 0]
class status: input_overflow = output_underflow = False

def query_hostapis(): return [{"name": "API"}]
def query_devices():
    return [{"name": "card", "hostapi": 0, "max_input_channels": 1, "max_output_channels": 1,
             "default_samplerate": 16000.0}]

def check_input_settings(**settings): pass
check_output_settings = check_input_settings

class InputStream:
    latency = 0.0
    def __init__(self, callback, blocksize, channels, finished_callback, **rest):
        self.callback, self.shape, self.going = callback, (blocksize, channels), True
        self.thread = threading.Thread(target=self.run, daemon=True)
    def start(self): self.thread.start()
    def run(self):
        data = np.full(self.shape, 0.25, np.float32)
        while self.going:
            self.callback(data, len(data), None, status)
            time.sleep(0.016)
    def close(self, ignore_errors):
        self.going = False
        self.thread.join()

class OutputStream(InputStream): pass
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_real_run(tmp_path, toy16, number, code):
    (tmp_path / "sounddevice.py").write_text(SOUNDDEVICE)
    root = str(Path(verb.__file__).parents[2])
    words = ["live", "-m", str(toy16), "--record-in", "in.wav", "--record-out", "out.wav"]
    process = subprocess.Popen(
        [sys.executable, "-m", "audiomask", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), root])},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:  # until both recordings have begun
        parts = list(tmp_path.glob(".*.part"))
        if len(parts) == 2 and all(p.stat().st_size > 5000 for p in parts):
            break
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    x, y = read(tmp_path / "in.wav")[0][0], read(tmp_path / "out.wav")[0][0]
    assert np.abs(x - 0.25).max() < 1e-4
    assert len(x) >= 2400
    assert len(y) >= 2400
    assert np.abs(y[1000:] - 0.25).max() < 1e-3
    assert not list(tmp_path.glob(".*.part"))


def test_the_picture_is_drawn_on_a_terminal(monkeypatch):
    """Only there, and nothing without."""
    with verb.screen(False) as show:
        show("not on a terminal")
    written = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "write", lambda text: written.append(text), raising=False)
    with verb.screen(False) as show:
        show("in [....] lag 1")
    assert "in [....] lag 1" in "".join(written)


def test_a_model_that_needs_a_control_names_its_verb(cli, desk):
    done = cli("live", "-m", "hallmark")
    assert done.code == 2
    assert "hallmark: cannot run without its control carrier; its task is mark" in done.err
