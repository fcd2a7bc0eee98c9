"""Fixed traces of a data directory: of the lengths and losses asked for, each recording's its own."""

import numpy as np
import pytest
import soundfile as sf

from audiomask.data.kaldi.directory import DataDir, DataError
from audiomask.data.kaldi.health import fix, validate
from audiomask.data.kaldi.traces import write_traces
from audiomask.masks.packets import Gilbert, Trace, Uniform, read_trace


@pytest.fixture
def data(tmp_path):
    """Four recordings of 1, 2, 3 and 4 s and a sample, at 8 kHz, beside their tables."""
    folder = tmp_path / "data"
    folder.mkdir()
    for n in range(1, 5):
        sf.write(folder / f"r{n}.wav", np.full(8000 * n + 1, 0.1), 8000)
    (folder / "wav.scp").write_text("".join(f"r{n} r{n}.wav\n" for n in range(1, 5)))
    return DataDir.read(folder)


def test_traces_fit_their_recordings(data, tmp_path, monkeypatch):
    made, lost = write_traces(data, tmp_path / "out", Uniform(0.3))
    assert validate(tmp_path / "out") == []
    traces = {key: read_trace(tmp_path / f"out/traces/{key}.txt") for key in data.recordings}
    assert [len(trace) for trace in traces.values()] == [51, 101, 151, 201]
    assert lost.packets == 504
    assert lost.rate == pytest.approx(0.3, abs=0.08)
    assert lost.rate * 504 == sum(trace.sum() for trace in traces.values())
    assert made.tables["clean.scp"] == made.tables["wav.scp"]
    assert made.tables["utt2trace"]["r2"] == "traces/r2.txt"
    made.subset(["r2"]).write(tmp_path / "part")  # elsewhere the same file is meant
    part = DataDir.read(tmp_path / "part")
    assert part.resolve(part.tables["utt2trace"]["r2"]).samefile(tmp_path / "out/traces/r2.txt")


def test_a_recordings_losses_depend_on_seed_and_key_alone(data, tmp_path):
    def traces(data, seed):
        made, _ = write_traces(data, tmp_path / "out", Gilbert(0.2, 0.4), seed)
        return {
            key: read_trace(made.resolve(file)).tolist() for key, file in made.tables["utt2trace"].items()
        }

    whole, other = traces(data, 0), traces(data, 1)
    assert traces(data.subset(["r2", "r4"]), 0) == {key: whole[key] for key in ("r2", "r4")}
    assert all(whole[key] != other[key] for key in whole)
    assert whole["r4"][:50] != whole["r3"][:50]


def test_segments_have_traces_of_their_own_length(data, tmp_path):
    (data.path / "segments").write_text("a r4 0.5 1.1\nb r4 2 -1\n")
    made, lost = write_traces(DataDir.read(data.path), tmp_path / "out", Uniform(0.5))
    assert lost.packets == 30 + 101
    assert sorted(made.tables["utt2trace"]) == ["a", "b"]


def test_what_cannot_be_is_refused(data, tmp_path):
    with pytest.raises(DataError, match=r"\.r1 cannot name a file"):
        write_traces(DataDir({"wav.scp": {".r1": str(data.path / "r1.wav")}}), tmp_path / "out", Uniform(0.1))
    recorded = Trace(np.ones(120, bool), "short.txt")
    with pytest.raises(Exception, match=r"short.txt: has 120 packets, and the signal 151"):
        write_traces(data, tmp_path / "out", recorded)


def test_health_looks_at_traces(data, tmp_path):
    write_traces(data, tmp_path / "out", Uniform(0.3))
    traces = tmp_path / "out/traces"
    (traces / "r1.txt").unlink()
    (traces / "r2.txt").write_text("0\nx\n")
    (traces / "r3.txt").write_text("0\n" * 149)
    (traces / "r4.txt").write_text("0\n" * 200)
    found = [str(problem) for problem in validate(tmp_path / "out")]
    assert len(found) == 3
    for line, (key, message) in zip(
        found, {"r1": "cannot be read", "r2": "r2.txt:2: 'x'", "r3": "149 packets"}.items(), strict=True
    ):
        assert key in line
        assert message in line
    assert fix(tmp_path / "out")[0].recordings == ["r4"]
