"""audiomask enhance --ray and conceal --ray: the output of one machine, whatever happens to the workers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import AudioError, Writer, remove_parts
from audiomask.audio.sources import Source
from audiomask.cli.conceal import work as concealing
from audiomask.cli.enhance import work as enhancing
from audiomask.runtime.files.batch import Job
from audiomask.runtime.files.packet_loss import Loss, loss_models
from audiomask.runtime.files.play import Options


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
    from audiomask.runtime.files.cluster import Worker

    wav("a.wav", samples=8000)
    job = Job(Source("a.wav", "a.wav"), {"enhanced": here / "b.wav"})
    work = enhancing(str(toy16), Options())
    assert work.finished(job) is None
    report = work(job, lambda done, total: None)
    again = work.finished(job)
    assert (again.model, again.seconds, again.error) == (report.model, report.seconds, None)
    assert "worker was lost" in again.notes[0]
    assert enhancing(str(toy16), Options(overwrite=True)).finished(job) is None
    load = partial(enhancing, str(toy16), Options())
    assert Worker(load, str(here), [job], None).work.outputs == work.outputs
    with pytest.raises(AudioError, match="not seen from"):
        Worker(load, str(here / "nowhere"), [job], None)


@pytest.mark.parametrize("spec", ["drop:0.3", None])
def test_what_a_lost_worker_had_concealed_is_counted_and_kept(here, repeat16, spec, monkeypatch):
    """The lossy file appears before the output. Alone it is of a worker that was lost, and is made again."""
    wav("a.wav", samples=8000)
    files = {"lossy": here / "b_lossy.wav", "concealed": here / "b.wav"}
    job = Job(Source("a.wav", "a.wav"), files)
    options = Options(loss=Loss(loss_models(spec) if spec else None, seed=3))
    work = concealing(str(repeat16), 20.0, options)
    assert [output.name for output in work.outputs] == ["concealed"]
    named, close = [], Writer.close
    monkeypatch.setattr(Writer, "close", lambda self: named.append(self.path.stem) or close(self))
    report = work(job, lambda done, total: None)
    assert report.bursts.packets == 25
    assert bool(report.bursts.longest) == bool(spec)
    again = work.finished(job).bursts
    assert again.packets == 25
    assert np.array_equal(again.histogram, report.bursts.histogram)
    assert named == ["b_lossy", "b"]
    job.output.unlink()
    assert work.finished(job) is None
    assert not files["lossy"].exists()


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


CONCEAL = "--loss gilbert:.1,.4 --seed 7 --write-lossy --report"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker that writes a file under /proc")
@pytest.mark.parametrize("verb", ["enhance", "conceal"])
def test_workers_killed_in_the_middle_lose_and_duplicate_nothing(here, toy16, repeat16, verb):
    """One worker is killed while it writes; one recording kills every worker that takes it; one is bad."""
    pytest.importorskip("ray.data", reason="needs ray: pip install 'audiomask[ray]'")
    lines = ["deadly kill -9 $PPID |", "bad none.wav"]
    for n in range(6):
        wav(f"in/{n}.wav", samples=16000 * 30, seed=n)
        lines.append(f"utt{n} in/{n}.wav")
    Path("wav.scp").write_text("\n".join(lines) + "\n")
    Path("good.scp").write_text("\n".join(lines[2:]) + "\n")
    names = [f"utt{n}.wav" for n in range(6)]
    if verb == "conceal":
        names += [f"utt{n}_lossy.wav" for n in range(6)]

    def command(scp, out, *more):
        model, report = (toy16, []) if verb == "enhance" else (repeat16, [*CONCEAL.split(), f"{out}.json"])
        words = [verb, scp, "-o", out, "-m", str(model), "--allow-pipes", "-j", "2", *report, *more]
        return [sys.executable, "-m", "audiomask", *words]

    process = subprocess.Popen(
        command("wav.scp", "out", "--ray", "local"), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    victim = None
    while victim is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        for writer, part in writers(here / "out").items():
            os.kill(writer, signal.SIGSTOP)
            if part.exists():  # it dies in the middle of its file
                victim = writer
                break
            os.kill(writer, signal.SIGCONT)  # it had just finished
    assert victim is not None, "no worker was caught writing"
    assert victim != process.pid
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1, err
    assert "6 files, 180.0 s" in err
    assert "2 of 8 failed:" in err
    assert len(re.findall("deadly: 4 workers were lost with it", err)) == 1
    assert len(re.findall("none.wav: no such file", err)) == 1
    assert "Traceback" not in err

    assert sorted(p.name for p in Path("out").iterdir()) == sorted([*names, "wav.scp"])  # no part, no second
    alone = subprocess.run(command("good.scp", "alone"), check=True, capture_output=True, text=True)
    for name in names:
        assert Path("out", name).read_bytes() == Path("alone", name).read_bytes()
    if verb == "conceal":  # of 1500 packets each, the same are lost
        facts = json.loads(Path("out.json").read_text())
        assert [fact["packets"] for fact in facts] == [1500] * 6
        assert len({fact["loss_rate"] for fact in facts}) > 1
        assert Path("out.json").read_text().replace("out/", "alone/") == Path("alone.json").read_text()
        (said,) = re.findall("lost .* at most", err)
        assert said in alone.stderr

    # Again: what exists is refused file by file, as on one machine, and no cluster is needed to say so.
    Path("out.json").unlink(missing_ok=True)
    again = subprocess.run(
        command("good.scp", "out", "--ray", "127.0.0.1:1"), capture_output=True, text=True, check=False
    )
    assert again.returncode == 1
    assert again.stderr.count("exists already; give -f") == 6


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_tags_of_a_cluster_are_those_of_one_machine(here, tagger16):
    """In the order of the inputs, and in a file each."""
    pytest.importorskip("ray.data", reason="needs ray: pip install 'audiomask[ray]'")
    for n in range(4):
        wav(f"in/{n}.wav", samples=16000 * (4 - n), seed=n)
    for out in ("t.jsonl", "folder"):
        for place, more in (("here", []), ("there", ["--ray", "local"])):
            Path(place).mkdir(exist_ok=True)
            words = ["tag", "in", "-m", str(tagger16), "-o", f"{place}/{out}", *more]
            done = subprocess.run(
                [sys.executable, "-m", "audiomask", *words], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
    assert len(Path("here/t.jsonl").read_text().splitlines()) == 4
    for path in [Path("t.jsonl"), *(Path(f"folder/{n}.json") for n in range(4))]:
        assert ("there" / path).read_text() == ("here" / path).read_text()
