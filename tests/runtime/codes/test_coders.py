"""audiomask.runtime.codes.coders: codes to bits and back."""

import likely
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.audio import AudioError
from audiomask.runtime.codes.coders import Likely, Plain, coder_of


@given(
    st.sampled_from([2, 3, 16, 1000, 1024, 65536]), st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_every_code_comes_back(levels, shape, seed):
    coder = Plain(levels)
    codes = np.random.default_rng(seed).integers(0, levels, shape)
    data = coder.encode(codes)
    assert len(data) == coder.least(shape) == coder.most(shape)
    np.testing.assert_array_equal(coder.decode(data, shape), codes)


def test_the_bits_are_in_the_order_of_the_table():
    """Frame by frame, in a frame book by book, the lowest bit first."""
    codes = np.array([[[1, 0], [1023, 2]]])
    bits = 1 | 1023 << 10 | 0 << 20 | 2 << 30
    assert Plain(1024).encode(codes) == bits.to_bytes(5, "little")


@pytest.mark.parametrize("data", [b"", b"\0" * 3, b"\0" * 5])
def test_other_lengths_are_refused(data):
    with pytest.raises(ValueError, match="are no 1 x 3 x 1 codes"):
        Plain(1024).decode(data, (1, 3, 1))


def test_codes_beyond_the_levels_are_refused():
    with pytest.raises(ValueError, match="code 7 is none of 5"):
        Plain(5).decode(b"\x07", (1, 1, 1))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Likely(16, likely.write(tmp_path_factory.mktemp("odds") / "tiny_prob.safetensors"))


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 12)),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_likely_codes_come_back_in_fewer_bytes(tiny, shape, seed, likeliest):
    codes = likely.drawn(tiny.probabilities, shape, seed, likeliest)
    data = tiny.encode(codes)
    assert tiny.least(shape) <= len(data) <= tiny.most(shape) == Plain(16).most(shape)
    np.testing.assert_array_equal(tiny.decode(data, shape), codes)
    weights, _, totals = tiny.probabilities.weigh(codes.swapaxes(1, 2))
    size = np.log2(totals / weights).sum() / 8
    if tiny.least(shape) + 1 < size < tiny.most(shape) - 1.2:
        assert len(data) <= size + 1.2  # a bit more, and up to whole bytes; by luck it is less


def test_to_encode_and_to_decode_are_the_same_weights(tiny):
    """All frames at once, in one matrix product, and one after the other."""
    codes = np.random.default_rng(1).integers(0, 16, (2, 300, 6))
    found = np.stack(tiny.probabilities.weigh(codes))
    for stream in range(2):
        for t, frame in zip(range(300), tiny.probabilities.frames(), strict=False):
            for book in range(6):
                weights, code = frame.weights(), codes[stream, t, book]
                want = weights[code], weights[:code].sum(), weights.sum()
                assert tuple(found[:, stream, t, book]) == want
                frame.take(code)


def test_what_would_be_longer_is_plain(tiny):
    """The unlikeliest codes cost more than their bits."""
    codes = np.empty((1, 25, 6), np.int64)
    for row, frame in zip(codes[0], tiny.probabilities.frames(), strict=False):
        for book in range(6):
            row[book] = frame.weights().argmin()
            frame.take(row[book])
    codes = codes.swapaxes(1, 2)
    assert tiny.encode(codes) == Plain(16).encode(codes)
    np.testing.assert_array_equal(tiny.decode(tiny.encode(codes), codes.shape), codes)


@given(st.binary(max_size=80), st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 12)))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_codes_or_refused(tiny, data, shape):
    try:
        codes = tiny.decode(data, shape)
    except ValueError:
        return
    assert codes.shape == shape
    assert codes.min() >= 0
    assert codes.max() < 16


def test_a_byte_stands_for_sixteen_codes_at_most(tiny):
    """Else a few bytes would take minutes to decode, to hours of sound."""
    assert tiny.least((1, 6, 25)) == 10
    with pytest.raises(ValueError, match="9 bytes are no 1 x 6 x 25 codes"):
        tiny.decode(bytes(9), (1, 6, 25))


def test_without_probabilities_sizes_are_known():
    coder = coder_of(Likely.number, 16)
    assert (coder.least((1, 6, 25)), coder.most((1, 6, 25))) == (10, 75)
    with pytest.raises(AudioError, match="none were given"):
        coder.decode(bytes(10), (1, 6, 25))
