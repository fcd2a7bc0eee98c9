"""The concealers that ship, on a recording of a reader that they never heard."""

import functools
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr

from audiomask import metrics
from audiomask.masks import packets
from audiomask.runtime.catalogue import family, resolve
from audiomask.runtime.packets.classical import METHODS
from audiomask.runtime.session import Session

CORPUS = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo"


@pytest.fixture(scope="module")
def speech():
    x, rate = sf.read(CORPUS / "mixture_clean.flac", dtype="float32")
    return {rate: x, 48000: soxr.resample(x, rate, 48000).astype(np.float32)}


def conceal(name: str, x, lost=None):
    session, out = Session(name), []
    for at in range(0, len(x), 4801):
        block = slice(at, at + 4801)
        out.append(session.feed(x[block]) if lost is None else session.feed(x[block], lost[block]))
    return np.concatenate([*out, session.flush()])


def drawn(length: int, rate: int, spec: str):
    count, size = packets.packets(length, rate, 20.0)
    flags = packets.parse_loss(spec).sample(np.array([3]), count)
    return packets.per_sample(flags, length, size)[0]


def test_told_ones_are_the_default():
    assert [a.name for a in resolve(None, task="conceal")] == ["darn_16k", "darn_48k"]
    assert [family(a) for a in resolve("darn_blind")] == ["darn_blind"] * 2
    for name in ("darn", "darn_blind"):
        assert all((a.lost is None) == ("blind" in name) for a in resolve(name))


@pytest.mark.parametrize("name", ["darn_16k", "darn_48k"])
def test_without_losses_it_is_the_input(name, speech):
    x = speech[resolve(name)[0].sample_rate]
    assert np.array_equal(conceal(name, x, np.zeros(len(x), bool)), x)


@pytest.mark.parametrize("name", ["darn_blind_16k", "darn_blind_48k"])
def test_blind_ones_leave_sound_alone(name, speech):
    rate = resolve(name)[0].sample_rate
    y = conceal(name, speech[rate])
    assert metrics.score(speech[rate], y, rate, ["pesq_wb"])["pesq_wb"] > 4.4


@pytest.fixture(scope="module")
def classical(speech):
    """`classical(rate, spec)`: what is lost, and the scores of the classical methods."""

    @functools.cache
    def scored(rate, spec):
        x = speech[rate]
        lost = drawn(len(x), rate, spec)
        mended = [method(np.where(lost, 0, x), lost, rate) for method in METHODS.values()]
        return lost, [metrics.score(x, y, rate, ["pesq_wb", "estoi"]) for y in mended]

    return scored


@pytest.mark.parametrize("spec", ["gilbert:.07,.63", "gilbert:.111,.333"])
@pytest.mark.parametrize("name", ["darn_16k", "darn_48k", "darn_blind_16k", "darn_blind_48k"])
def test_it_is_better_than_the_classical_ones(name, spec, speech, classical):
    rate = resolve(name)[0].sample_rate
    x = speech[rate]
    lost, scores = classical(rate, spec)
    y = conceal(name, np.where(lost, 0, x), None if "blind" in name else lost)
    ours = metrics.score(x, y, rate, ["pesq_wb", "estoi"])
    for theirs in scores:
        assert ours["pesq_wb"] > theirs["pesq_wb"]
        assert ours["estoi"] > theirs["estoi"]
