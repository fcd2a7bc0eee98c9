"""audiomask.runtime.codes.container: records in bytes, however they come."""

from dataclasses import replace

import numpy as np
import pytest
from codes import HEADER, drawn, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.runtime.codes import container
from audiomask.runtime.codes.container import (
    END,
    ENTRIES,
    LAST,
    End,
    Header,
    Packer,
    Packet,
    Unpacker,
    find_end,
)


def records(data, piece=10**9, header=None):
    unpacker = Unpacker(header)
    found = [r for at in range(0, len(data), piece) for r in unpacker.push(data[at : at + piece])]
    return found + list(unpacker.push(b"", last=True)), unpacker.skipped


def test_three_seconds_at_six_kbits_are_small_enough():
    """6.6 kbit/s in all: 2,475 bytes, of which the codes are 2,250."""
    data = packed(drawn(frames=150, books=12), samples=48000)
    assert len(data) == 2438


@given(
    st.builds(
        Header,
        name=st.sampled_from(["g", "gist", "Übersetzer 2"]),
        hash=st.binary(min_size=8, max_size=8),
        clock=st.sampled_from([16000, 24000, 44100]),
        stride=st.integers(1, 2000),
        rate=st.sampled_from([4000, 44100, 768000]),
        channels=st.just(6),
        streams=st.sampled_from([1, 2, 6]),
        books=st.integers(1, 8),
        levels=st.sampled_from([2, 1000, 65536]),
        frames=st.integers(1, 40),
    ),
    st.integers(0, 150),
    st.integers(1, 500),
)
@settings(max_examples=60, deadline=None)
def test_codes_and_header_come_back_in_pieces_of_any_size(header, frames, piece):
    codes = drawn(header, frames, books=1 + frames % header.books)
    data = packed(codes, header)
    (first, *packets, end), skipped = records(data, piece)
    assert (first, skipped) == (header, 0)
    assert isinstance(end, End)
    assert (end.header, end.packets, end.samples) == (header, len(packets), header.samples(frames))
    assert [p.number for p in packets] == list(range(-(-frames // header.frames)))
    assert find_end(data) == find_end(b"junk" + data) == end
    if packets:
        np.testing.assert_array_equal(np.concatenate([p.codes(header) for p in packets], axis=1), codes)


def test_books_may_change_from_packet_to_packet():
    codes = np.concatenate([drawn(frames=25, books=3), drawn(frames=25, books=18)], axis=1)
    _, *packets, _ = records(packed(codes))[0]
    assert [p.books for p in packets] == [3, 18]
    np.testing.assert_array_equal(np.concatenate([p.codes(HEADER) for p in packets], axis=1), codes)
    with pytest.raises(ValueError, match="frames without a code"):
        Packer(HEADER).push(np.full((18, 25), -1))


def test_packets_leave_as_soon_as_they_are_whole():
    packer = Packer(replace(HEADER, frames=2))
    sizes = [len(packer.push(drawn(frames=1))) for _ in range(4)]
    assert sizes == [0, 14 + 30, 0, 14 + 30]


def test_packets_of_another_file_are_no_packets():
    other = replace(HEADER, hash=b"another!")
    data = packed(drawn())
    mixed = data[:38] + packed(drawn(seed=1), other)[38:] + data[38:]
    found, skipped = records(mixed)
    assert [type(r) for r in found].count(Packet) == 6
    assert skipped > 0
    np.testing.assert_array_equal(found[2].codes(HEADER), drawn()[:, :25])


def test_a_lost_header_is_found_at_the_end_or_given():
    data = packed(drawn())
    assert find_end(data[38:]).header == HEADER
    assert [type(r) for r in records(data[38:])[0]] == [End]  # a pipe cannot wait for it
    assert len(records(data[38:], header=HEADER)[0]) == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clock": 0}, "clock 0 is outside 4000"),
        ({"rate": 10**6}, "rate 1000000 is outside"),
        ({"channels": 0}, "channels 0"),
        ({"streams": 2}, "streams 2 is outside 1 to 1"),
        ({"channels": 5, "streams": 2}, "no whole number"),
        ({"levels": 1}, "levels 1 "),
        ({"frames": 0}, "frames 0 "),
        ({"books": 255, "frames": 255}, "may have 81282 bytes"),
        ({"coder": 200}, "only a newer audiomask knows"),
        ({"name": ""}, "no name of a codec"),
        ({"name": "\x1b[2J"}, "no name of a codec"),
    ],
)
def test_headers_that_nobody_can_decode(changes, words):
    with pytest.raises(ValueError, match=words.replace("[", r"\[")):
        replace(HEADER, **changes)


def test_an_end_that_promises_much_takes_no_memory():
    for entries, every in ((65535, 16), (ENTRIES + 1, 16), (0, 0)):
        data = END.pack(LAST, 2**63, 2**32 - 1, every, entries) + bytes(100)
        assert records(data, header=HEADER) == ([], len(data))
    assert find_end(b"") is find_end(b"\xff" * 8) is find_end(bytes(100)) is None


def test_the_index_grows_coarser(monkeypatch):
    monkeypatch.setattr(container, "ENTRIES", 4)
    monkeypatch.setattr(container, "EVERY", 2)
    monkeypatch.setattr(container, "COARSEST", 8)
    header = replace(HEADER, frames=1)
    for count in (1, 9, 10, 11, 16, 40, 200):
        data = packed(drawn(header, count), header)
        _, *packets, end = records(data)[0]
        assert end.every in (2, 4, 8)
        assert len(end.places) <= 4
        assert [packets[(n + 1) * end.every].at for n in range(len(end.places))] == list(end.places)
        assert len(end.places) == 4 or count <= (len(end.places) + 1) * end.every
