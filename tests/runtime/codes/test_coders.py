"""audiomask.runtime.codes.coders: codes to bits and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.runtime.codes.coders import CODERS, Plain


@given(
    st.sampled_from([2, 3, 16, 1000, 1024, 65536]), st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_every_code_comes_back(levels, shape, seed):
    for make in CODERS.values():
        coder = make(levels)
        codes = np.random.default_rng(seed).integers(0, levels, shape)
        data = coder.encode(codes)
        assert len(data) <= coder.most(shape)
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
