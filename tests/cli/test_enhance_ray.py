"""audiomask enhance --ray: the output of one machine, whatever happens to the workers."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import AudioError, remove_parts
from audiomask.runtime.files import Job, Options, enhance_file
from audiomask.sources import Source


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wav(path, samples=2000, seed=0):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, 0.1 * np.random.default_rng(seed).standard_normal(samples), 16000)


def test_without_ray_the_extra_is_named(here, cli, toy16, monkeypatch):
    wav("a.wav")
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    done = cli("enhance", "a.wav", "-o", "out/", "-m", toy16, "--ray", "local")
    assert done.code == 1
    assert "needs ray, which is not installed; pip install 'audiomask[ray]'" in done.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-", "-o", "b.wav"], "standard input and output stay on one machine"),
        (["a.wav", "-o", "-"], "standard input and output stay on one machine"),
        (["a.wav", "-o", "a.wav", "-f"], "a.wav: --ray does not write in place"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(here, cli, toy16, words, text):
    wav("a.wav")
    done = cli("enhance", *words, "-m", toy16, "--ray", "local")
    assert done.code == 2
    assert text in done.err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port"])
def test_a_cluster_that_does_not_answer_is_named(here, cli, toy16, address):
    pytest.importorskip("ray", reason="needs ray: pip install 'audiomask[ray]'")
    wav("a.wav")
    done = cli("enhance", "a.wav", "-o", "b.wav", "-m", toy16, "--ray", address)
    assert done.code == 1
    assert f"--ray {address}: no cluster can be used there" in done.err


def test_what_a_killed_writer_left_is_removed_and_nothing_else(here):
    gone = [".a.wav.01234567.part", ".a.wav.89abcdef.part"]
    kept = [
        ".a.wav.b.wav.01234567.part",
        ".b.wav.01234567.part",
        "a.wav.01234567.part",
        ".a.wav.0.part",
        "a.wav",
    ]
    for name in gone + kept:
        (here / name).touch()
    remove_parts("a.wav")
    assert sorted(p.name for p in here.iterdir()) == sorted(kept)


def test_a_file_that_a_lost_worker_had_finished_is_not_done_again(here, toy16):
    pytest.importorskip("ray", reason="needs ray: pip install 'audiomask[ray]'")
    from audiomask.runtime.cluster import Worker

    wav("a.wav", samples=8000)
    job = Job(Source("a.wav", "a.wav"), here / "b.wav")
    worker = Worker(str(toy16), Options(), str(here), None)
    assert worker.finished(job) is None
    report = enhance_file(job, worker.family, Options())
    again = worker.finished(job)
    assert (again.model, again.seconds, again.error) == (report.model, report.seconds, None)
    assert "worker was lost" in again.notes[0]
    assert Worker(str(toy16), Options(overwrite=True), str(here), None).finished(job) is None
    with pytest.raises(AudioError, match="not seen from"):
        Worker(str(toy16), Options(), str(here / "nowhere"), None)


def writers(folder: Path) -> dict[int, Path]:
    """Processes that have a half-written file of `folder` open."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is not ours to look into
            for link in (process / "fd").iterdir():
                target = link.readlink()
                if target.is_relative_to(folder) and target.suffix == ".part":
                    found[int(process.name)] = target
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker that writes a file under /proc")
def test_workers_killed_in_the_middle_lose_and_duplicate_nothing(here, toy16):
    """One worker is killed while it writes; one recording kills every worker that takes it; one is bad."""
    pytest.importorskip("ray.data", reason="needs ray: pip install 'audiomask[ray]'")
    lines = ["deadly kill -9 $PPID |", "bad none.wav"]
    for n in range(6):
        wav(f"in/{n}.wav", samples=16000 * 30, seed=n)
        lines.append(f"utt{n} in/{n}.wav")
    (here / "wav.scp").write_text("\n".join(lines) + "\n")
    base = [
        sys.executable,
        "-m",
        "audiomask",
        "enhance",
        "wav.scp",
        "-m",
        str(toy16),
        "--allow-pipes",
        "-j",
        "2",
    ]
    process = subprocess.Popen(
        [*base, "-o", "out", "--ray", "local"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (found := writers(here / "out")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found, "no worker was caught writing"
    victim, part = next(iter(found.items()))
    assert victim != process.pid
    os.kill(victim, signal.SIGKILL)
    assert part.exists(), "it was to die in the middle of its file"
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1, err
    assert "6 files, 180.0 s" in err
    assert "2 of 8 failed:" in err
    assert len(re.findall("deadly: 4 workers were lost with it", err)) == 1
    assert len(re.findall("none.wav: no such file", err)) == 1
    assert "Traceback" not in err

    names = [f"utt{n}.wav" for n in range(6)]
    assert sorted(p.name for p in (here / "out").iterdir()) == [*names, "wav.scp"]  # no part, nothing twice
    alone = base.copy()
    alone[alone.index("wav.scp")] = "in"
    subprocess.run([*alone, "-o", "alone"], check=True, capture_output=True)
    for n, name in enumerate(names):
        assert (here / "out" / name).read_bytes() == (here / "alone" / f"{n}.wav").read_bytes()

    # Again: what exists is refused file by file, as on one machine, and no cluster is needed to say so.
    (here / "wav.scp").write_text("\n".join(lines[2:]) + "\n")
    again = subprocess.run(
        [*base, "-o", "out", "--ray", "127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 1
    assert again.stderr.count("exists already; give -f") == 6
