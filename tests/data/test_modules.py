"""Data modules: which rows a process gets, and packed corpora that follow their files."""

import os

import numpy as np
import pytest
import soundfile as sf

from audiomask.data.crops.packed import PackedAudio
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.modules import Batches, NoisySpeech, PairedSpeech


def test_batches_go_on_from_the_step_and_are_shared_out_among_processes():
    assert list(Batches(5, 2, lambda: 0)) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert list(Batches(5, 2, lambda: 7)) == [
        [14, 15],
        [16, 17],
        [18, 19],
    ]  # in the middle of the second epoch
    one = list(Batches(5, 4, lambda: 7))
    two = [list(Batches(5, 2, lambda: 7, rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == one


@pytest.fixture
def folder(tmp_path):
    """A data directory of pairs: recording `a` at a level of .1, its clean version at .05."""
    for name, level in (("a", 0.1), ("a_clean", 0.05)):
        sf.write(tmp_path / f"{name}.wav", np.full(1600, level), 16000)
    DataDir({"wav.scp": {"a": "a.wav"}, "clean.scp": {"a": "a_clean.wav"}}).write(tmp_path)
    return tmp_path


def replace(path, level: float, later_ns: int = 10_000_000) -> None:
    """Other samples under the same name, the file as long as it was."""
    size, before = path.stat().st_size, path.stat().st_mtime_ns
    sf.write(path, np.full(1600, level), 16000)
    assert path.stat().st_size == size
    os.utime(path, ns=(before + later_ns, before + later_ns))


def level(prefix) -> float:
    return float(PackedAudio(prefix).samples[0]) / 32768


def test_a_recording_replaced_under_its_name_is_packed_anew(folder):
    module = NoisySpeech(
        str(folder), str(folder), str(folder), cache=str(folder / "cache"), sample_rate=16000
    )
    first = module._pack(str(folder))
    assert level(first) == pytest.approx(0.1, abs=1e-3)
    assert module._pack(str(folder)) == first
    replace(folder / "a.wav", 0.3)
    assert level(module._pack(str(folder))) == pytest.approx(0.3, abs=1e-3)
    assert level(first) == pytest.approx(0.1, abs=1e-3)  # what a run still reads stays


def test_a_clean_recording_replaced_under_its_name_is_packed_anew(folder):
    module = PairedSpeech(str(folder), str(folder), cache=str(folder / "cache"), sample_rate=16000)
    first = module._pack(str(folder))
    replace(folder / "a_clean.wav", 0.2)
    assert level(module._pack(str(folder))) == pytest.approx(0.2, abs=1e-3)
    assert level(first) == pytest.approx(0.05, abs=1e-3)


def test_rows_are_as_long_as_the_simulation_needs(folder):
    """Nothing of a simulation's speeds is lost for want of material."""
    from types import SimpleNamespace

    from audiomask.data.simulate.degrade import Degrade

    def raw(**options) -> int:
        simulation = Degrade(16000, 8000, **options)
        module.trainer = SimpleNamespace(lightning_module=SimpleNamespace(simulation=simulation))
        return module.raw

    module = NoisySpeech("", "", "", sample_rate=16000, segment=8000)
    assert raw() == 12000
    assert raw(noise_speed=(0.7, 2.0)) == 16320
    module.crop = 9000
    assert raw(noise_speed=(0.7, 2.0)) == 9000
