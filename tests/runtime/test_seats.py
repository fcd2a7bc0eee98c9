"""Channels sit in the order that a model of stereo sound expects, and come back to their places."""

import numpy as np
import pytest

from audiomask.audio.layout import mask_of
from audiomask.runtime.seats import Seats


@pytest.mark.parametrize(
    ("names", "width", "rows"),
    [
        ("FL FR", 2, [0, 1]),
        ("FC", 2, [0, 0]),
        ("FL FR FC LFE BL BR", 2, [0, 1, 4, 5, 2, 2]),
        ("FL FR FC LFE BL BR SL SR", 2, [0, 1, 6, 7, 4, 5, 2, 2]),
        ("FL FR FC LFE", 1, [0, 1, 2]),
    ],
)
def test_left_comes_before_right_and_what_is_alone_sits_twice(names, width, rows):
    channels = len(names.split())
    seats = Seats(channels, mask_of(names), width)
    x = np.arange(channels, dtype=np.float32)[:, None] + 1
    assert (seats.seated(x)[:, 0] - 1).tolist() == rows
    assert seats.rows == len(rows)
    back = seats.gathered(seats.seated(x))
    assert [n for n in range(channels) if back[n, 0] != x[n, 0]] == seats.low
    assert not back[seats.low].any()
