"""Symbols by given probabilities: there and back, what damage does, and the package's bytes."""

import importlib
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.runtime.codes.arithmetic import WHOLE, ArithmeticReader, ArithmeticWriter, quantized


def drawn(seed, count, levels, sharp):
    """Probabilities `[count, levels]`, and symbols that follow them."""
    rng = np.random.default_rng(seed)
    logits = sharp * rng.standard_normal((count, levels)).astype(np.float32)
    found = np.exp(logits - logits.max(1, keepdims=True))
    found /= found.sum(1, keepdims=True)
    return found, [int(rng.choice(levels, p=row / row.sum())) for row in found.astype(np.float64)]


def written(codes, ends):
    file = io.BytesIO()
    writer = ArithmeticWriter(file)
    for code, row in zip(codes, ends, strict=True):
        writer.push(code, row)
    writer.finish()
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.sampled_from([2, 3, 64, 1024]), st.floats(0, 12))
def test_symbols_come_back_in_as_many_bits_as_they_are_worth(seed, count, levels, sharp):
    found, codes = drawn(seed, count, levels, sharp)
    ends = quantized(found)
    data = written(codes, ends)
    file = io.BytesIO(data + b"next")
    reader = ArithmeticReader(file)
    assert [reader.pull(row) for row in ends] == codes
    assert file.read() == b"next"  # not a byte too many
    widths = np.diff(ends, prepend=0)[np.arange(count), codes] / WHOLE
    assert len(data) <= math.ceil((-np.log2(widths).sum() + 26) / 8)


def test_parts_are_whole_and_none_is_empty():
    ends = quantized(np.float32([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]))
    assert (np.diff(ends, prepend=0) >= 2).all()
    assert (ends[:, -1] <= WHOLE).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.binary(max_size=60))
def test_bytes_that_nobody_wrote_give_symbols_or_an_end(seed, data):
    ends = quantized(drawn(seed, 1, 64, 3.0)[0])[0]
    reader, count = ArithmeticReader(io.BytesIO(data)), 0
    while (code := reader.pull(ends)) is not None:
        assert 0 <= code < 64
        count += 1
    assert count <= 8 * len(data) / -np.log2(np.diff(ends, prepend=0).max() / WHOLE) + 1


@pytest.mark.peer
@pytest.mark.parametrize("sharp", [0.1, 3.0, 12.0])
def test_bytes_are_the_packages(sharp):
    torch = pytest.importorskip("torch")
    importlib.import_module("audiomask.frontend.torchaudio_import")  # the package imports torchaudio
    peer = pytest.importorskip("encodec.quantization.ac")
    found, codes = drawn(1, 300, 1024, sharp)
    ends, file = quantized(found), io.BytesIO()
    writer = peer.ArithmeticCoder(file)
    for row, mine, code in zip(found, ends, codes, strict=True):
        theirs = peer.build_stable_quantized_cdf(torch.from_numpy(row), 24, check=False)
        np.testing.assert_array_equal(mine, theirs.numpy())
        writer.push(code, theirs)
    writer.flush()
    assert written(codes, ends) == file.getvalue()
    file.seek(0)
    reader = ArithmeticReader(file)
    assert [reader.pull(row) for row in ends] == codes
