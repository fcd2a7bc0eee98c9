"""audiomask.runtime.card.recorder: recordings that are whole, or say what is missing, also after a crash."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile

from audiomask.audio import AudioError, Writer, read
from audiomask.runtime.card.recorder import Recorder


def test_blocks_become_a_file_at_the_end(tmp_path, noise):
    path, x = tmp_path / "a.wav", noise(2, 5000)
    recorder = Recorder(path, 16000, 2)
    block = np.empty((2, 500), np.float32)
    for n in range(0, 5000, 500):
        block[:] = x[:, n : n + 500]  # the same memory each time, as live
        recorder.write(block)
    assert not path.exists()
    assert recorder.close() == [f"{path}: 0.3 s"]
    y, rate = read(path)
    assert rate == 16000
    assert np.abs(y - x).max() <= 0.51 / 32768
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_it_does_not_overwrite_unless_told(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"precious")
    with pytest.raises(AudioError, match="exists already"):
        Recorder(tmp_path / "a.wav", 16000, 1)
    recorder = Recorder(tmp_path / "a.wav", 16000, 1, overwrite=True)
    assert "there was no sound" in recorder.close()[0]
    assert (tmp_path / "a.wav").read_bytes() == b"precious"


def test_a_slow_disk_holds_nobody_up_and_is_told(tmp_path, monkeypatch):
    go, put = threading.Event(), Writer.write

    def slow(self, x):
        go.wait(60)
        put(self, x)

    monkeypatch.setattr(Writer, "write", slow)
    monkeypatch.setattr("audiomask.runtime.card.recorder.WAIT_S", 0.1)
    recorder = Recorder(tmp_path / "a.wav", 16000, 1, block=160)
    for _ in range(100):
        recorder.write(np.ones((1, 160), np.float32))
    go.set()
    notes = recorder.close()
    assert 80 * 160 <= recorder.lost <= 90 * 160
    assert f"{recorder.lost} samples are missing, the disk was too slow" in notes[-1]
    assert read(tmp_path / "a.wav")[0].shape[1] == 100 * 160 - recorder.lost


def test_only_what_can_be_finished_at_any_moment(tmp_path):
    with pytest.raises(AudioError, match=r"a.flac: is recorded as one of .wav .w64 .rf64"):
        Recorder(tmp_path / "a.flac", 16000, 1)


def test_the_end_of_a_wav_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr("audiomask.audio.writer.MAX_RIFF_BYTES", 20_000)
    recorder = Recorder(tmp_path / "a.wav", 16000, 1)
    for _ in range(12):
        recorder.write(np.ones((1, 1000), np.float32))
    assert "more than 4 GiB" in recorder.close()[-1]
    assert read(tmp_path / "a.wav")[0].shape[1] == 10_000


FULL = """
import resource, sys
import numpy as np
from audiomask.runtime.card.recorder import Recorder
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
recorder = Recorder(sys.argv[1], 16000, 1)
for _ in range(100):
    recorder.write(np.full((1, 1000), 0.5, np.float32))
print(*recorder.close(), sep="\\n")
"""


@pytest.mark.parametrize("suffix", ["wav", "w64"])
def test_a_full_disk_ends_the_recording_and_keeps_it(tmp_path, suffix):
    """A limit on the size of files makes writes fail like a full disk does, in a process of its own."""
    path = tmp_path / f"a.{suffix}"
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True)
    assert "writing failed after" in done.stdout
    assert "what was recorded before is kept" in done.stdout
    assert read(path)[0].shape[1] >= 40_000
    assert not list(tmp_path.glob(".*"))


def fail(*args):
    raise RuntimeError("Error : input/output error")


def test_a_disk_that_leaves_is_an_error_that_says_so(tmp_path, monkeypatch):
    """While it is written, and when it is finished."""
    for broken in (False, True):
        folder = tmp_path / "stick"
        folder.mkdir()
        recorder = Recorder(folder / "a.wav", 16000, 1)
        recorder.write(np.ones((1, 1000), np.float32))
        while not recorder._writer.frames:
            time.sleep(0.01)
        shutil.rmtree(folder)
        if broken:
            monkeypatch.setattr(soundfile.SoundFile, "write", fail)
            recorder.write(np.ones((1, 1000), np.float32))
        with pytest.raises(AudioError, match=r"a.wav: writing failed after 0.1 s .* its folder cannot be"):
            recorder.close()
        assert recorder._thread.is_alive() is False
        assert (recorder.error is not None) is broken


KILLED = """
import sys, time
import numpy as np
from audiomask.runtime.card.recorder import Recorder
recorder = Recorder(sys.argv[1], 16000, 1)
for _ in range(50):
    recorder.write(np.full((1, 1000), 0.5, np.float32))
while recorder._queue.qsize() or recorder._writer.frames < 50_000:
    time.sleep(0.01)
print("written", flush=True)
time.sleep(600)
"""


def test_a_killed_recording_can_be_read(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "a.wav"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (part,) = tmp_path.iterdir()
    assert part.name.startswith(".a.wav.")
    assert part.name.endswith(".part")
    x, rate = read(part)
    assert rate == 16000
    assert x.shape == (1, 50_000)
    assert soundfile.info(str(part)).frames == 50_000
