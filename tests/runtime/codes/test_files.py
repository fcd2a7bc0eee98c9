"""audiomask.runtime.codes.files: all that is whole is found, whatever happened to a file."""

import re
import tracemalloc
import zlib
from dataclasses import replace
from functools import partial

import likely
import numpy as np
import pytest
from codes import HEADER, damaged, drawn, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.audio import AudioError
from audiomask.runtime.codes.coders import Likely
from audiomask.runtime.codes.container import END, LAST, MAGIC, MARK, PACKET, WORD, Packet, Unpacker
from audiomask.runtime.codes.files import AmkFile, NotCodesError, in_order

FEW = replace(HEADER, frames=5)  # frames of a packet: many packets
SMALL = replace(FEW, books=6, levels=16)  # what `likely` has probabilities of


def whole_file(path, frames=64, probabilities=None):
    """Codes `[rows, frames]` and flags of what a file holds."""
    with AmkFile(path) as file:
        if probabilities and file.header.probabilities == probabilities.hash:
            file.coder = file.header.coder_of(probabilities)
        blocks = list(file.blocks(frames, {"codes": 1, "lost": 1}))
        codes, lost = (np.concatenate([b[key] for b in blocks], axis=1) for key in ("codes", "lost"))
        assert codes.shape[1] == lost.shape[1] == file.frames
        assert all(b["codes"].shape[1] == min(frames, file.most) for b in blocks[:-1])
        assert file.position == file.info.frames
        return codes, lost[0] > 0, file


whole = whole_file


def written(tmp_path, data):
    path = tmp_path / "a.amk"
    path.write_bytes(data)
    return path


def test_a_whole_file(tmp_path):
    codes = drawn(frames=163)
    header = replace(HEADER, rate=44100)
    got, lost, file = whole(written(tmp_path, packed(codes, header, samples=143000)))
    np.testing.assert_array_equal(got, codes)
    assert not lost.any()
    assert (file.info.frames, file.info.rate, file.info.channels, file.notes) == (143000, 44100, 18, [])


def test_many_channels_come_in_smaller_blocks(tmp_path):
    """A block of 128 channels at 768 kHz would take half a gigabyte."""
    header = replace(HEADER, rate=768000, channels=128, streams=128, frames=2)
    codes = drawn(header, 7)
    with AmkFile(written(tmp_path, packed(codes, header))) as file:
        blocks = [block["codes"] for block in file.blocks(64, {"codes": 1})]
    assert max(block.shape[1] for block in blocks) == 2
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), codes)


@pytest.fixture(scope="module")
def odds(tmp_path_factory):
    return likely.write(tmp_path_factory.mktemp("odds") / "tiny_prob.safetensors")


@pytest.mark.parametrize("coded", ["plain", "likely"])
def test_packets_outside_the_damage_come_out_exactly(tmp_path, odds, coded):
    """A thousand files, each damaged once; what the damage left whole is computed from the bytes."""
    header, probabilities = FEW, None
    if coded == "likely":
        header, probabilities = replace(SMALL, coder=Likely.number, probabilities=odds.hash), odds
    codes = drawn(header, 163)
    if probabilities:
        packets = [likely.drawn(odds, (1, 6, 5), seed)[0] for seed in range(33)]
        codes = np.concatenate(packets, axis=1)[:, :163]
    data = packed(codes, header, probabilities=probabilities)
    whole = partial(whole_file, probabilities=probabilities)
    pieces = {r.number: data[r.at : r.at + 14 + len(r.payload)] for r in _packets(data)}
    assert len(pieces) == 33
    read = refused = 0
    for bad in damaged(data, 1000):
        path = written(tmp_path, bad)
        intact = [n for n, piece in pieces.items() if piece in bad]
        if not intact or not _has_header(bad, data, header):
            with pytest.raises(AudioError, match=re.escape(str(path))):
                whole(path)
            refused += 1
            continue
        got, lost, file = whole(path)
        read += 1
        for n in intact:
            frames = slice(5 * n, min(5 * n + 5, 163))
            if file.frames >= frames.stop:  # else the end says that it is shorter
                assert not lost[frames].any()
                np.testing.assert_array_equal(got[:, frames], codes[:, frames])
        unharmed = np.repeat([n in intact for n in range(33)], 5)[:163]
        n = min(163, file.frames)
        assert (lost[:n] == ~unharmed[:n]).all(), "what is no packet is no sound"
        assert (got[:, :n][:, ~unharmed[:n]] == -1).all()
        assert bad == data or file.notes
    assert read > 800
    assert refused > 10


def _packets(data):
    return [r for r in Unpacker().push(data, last=True) if isinstance(r, Packet)]


def _has_header(bad, data, header):
    return data[: len(header.to_bytes())] in bad


def test_packets_in_any_order_and_double_ones(tmp_path):
    codes = drawn(FEW, 163)
    data = packed(codes, FEW)
    found = _packets(data)
    pieces = [data[r.at : r.at + 14 + len(r.payload)] for r in found]
    order = np.random.default_rng(0).permutation(len(pieces)).tolist()
    mixed = data[: found[0].at] + b"".join(pieces[n] for n in [*order, 3, 3, 0])
    got, lost, file = whole(written(tmp_path, mixed + data[data.rindex(LAST) :]))
    np.testing.assert_array_equal(got, codes)
    assert not lost.any()
    assert file.notes == []


@given(st.lists(st.integers(0, 60), max_size=80), st.integers(1, 80))
@settings(max_examples=80, deadline=None)
def test_in_order(numbers, window):
    found = [p.number for p in in_order([Packet(n, 1, 1, b"") for n in numbers], window)]
    assert found == sorted(set(found))
    if window >= len(numbers):
        assert set(found) == set(numbers)


def test_a_cut_file_plays_what_is_there(tmp_path):
    codes = drawn(FEW, 163)
    data = packed(codes, FEW)
    got, lost, file = whole(written(tmp_path, data[:1500]))
    n = got.shape[1]
    assert n % 5 == 0
    assert 60 < n < 163
    np.testing.assert_array_equal(got, codes[:, :n])
    assert not lost.any()
    assert f"truncated: its end is missing; {n / 50:.2f} s were decoded" in file.notes[0]


def test_a_packet_that_nobody_wrote_is_lost(tmp_path):
    """Its sum is right, and its codes are beyond the levels."""
    header = replace(FEW, levels=1000)
    codes = drawn(header, 15)
    data = bytearray(packed(codes, header))
    at = _packets(bytes(data))[1].at
    data[at + 14 : at + 16] = b"\xff\xff"
    size = PACKET.unpack_from(data, at)[4]
    crc = zlib.crc32(data[at + 14 : at + 14 + size], zlib.crc32(data[at : at + 10], header.seed))
    data[at + 10 : at + 14] = WORD.pack(crc)
    got, lost, file = whole(written(tmp_path, bytes(data)))
    assert lost.tolist() == [5 <= n < 10 for n in range(15)]
    np.testing.assert_array_equal(got[:, ~lost], codes[:, ~lost])
    assert any("damaged" in note for note in file.notes)


def test_a_packet_by_probabilities_that_nobody_wrote_is_bounded(tmp_path, odds):
    """Its sum is right and its bytes are random: some codes come of it, or it is lost."""
    header = replace(SMALL, coder=Likely.number, probabilities=odds.hash)
    packets = [likely.drawn(odds, (1, 6, 5), seed)[0] for seed in range(10)]
    codes, rng = np.concatenate(packets, axis=1), np.random.default_rng(0)
    data = bytearray(packed(codes, header, probabilities=odds))
    for n, packet in enumerate(_packets(bytes(data))):
        at, size = packet.at, len(packet.payload)
        assert size < 15, "plain codes have 15 bytes"
        if n == 4:
            continue
        data[at + 14 : at + 14 + size] = rng.bytes(size)
        crc = zlib.crc32(data[at + 14 : at + 14 + size], zlib.crc32(data[at : at + 10], header.seed))
        data[at + 10 : at + 14] = WORD.pack(crc)
    got, lost, _ = whole(written(tmp_path, bytes(data)), probabilities=odds)
    np.testing.assert_array_equal(got[:, 20:25], codes[:, 20:25])
    assert ((got[:, ~lost] >= 0) & (got[:, ~lost] < 16)).all()
    with pytest.raises(AudioError, match="none were given to unpack them"):
        whole(tmp_path / "a.amk")


@pytest.mark.parametrize("number", [2**32 - 1, 10**6])
@pytest.mark.parametrize("ended", [True, False])
def test_a_few_bytes_do_not_become_hours(tmp_path, number, ended):
    """A packet with a right sum that is weeks away, and an end that promises years, would be concealed."""
    codes = drawn(FEW, 10)
    data = packed(codes, FEW, samples=2**60)
    payload = _packets(data)[0].payload
    head = PACKET.pack(MARK, number, 12, 5, len(payload))
    far = head + WORD.pack(zlib.crc32(payload, zlib.crc32(head, FEW.seed))) + payload
    end = data.rindex(LAST)
    path = written(tmp_path, data[:end] + far + (data[end:] if ended else b""))
    tracemalloc.start()
    got, _, file = whole(path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    np.testing.assert_array_equal(got, codes)
    assert "truncated" in file.notes[0]


def test_an_hour_may_be_missing_from_a_long_file(tmp_path):
    header = replace(HEADER, stride=3200)
    codes = drawn(header, 5 * 3600 * 3, books=2)
    data = packed(codes, header, blocks=(10000,))
    found = _packets(data)
    cut = data[: found[360].at] + data[found[3 * 360].at :]
    for damaged_file in (cut, b"\0" * 38 + cut[38:]):
        got, lost, _ = whole(written(tmp_path, damaged_file), 4096)
        assert lost.sum() == 5 * 3600
        np.testing.assert_array_equal(got[:, ~lost], codes[:, ~lost])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"RIFF" + bytes(100_000), "is no .amk file; make one with: audiomask encode"),
        (MAGIC, "its header is damaged, and so is its copy"),
        (b"AMK\x02" + bytes(100), "has version 2 of the format"),
        (HEADER.to_bytes(), "holds no whole packet"),
        (packed(drawn(frames=0), samples=0), "holds no whole packet"),
        (packed(drawn(), samples=0), "holds no whole packet"),
    ],
)
def test_what_is_no_file_of_codes(tmp_path, data, words):
    with pytest.raises(NotCodesError, match=words):
        AmkFile(written(tmp_path, data))
    with pytest.raises(AudioError, match=r"b\.amk: no such file"):
        AmkFile(tmp_path / "b.amk")


def test_joined_files_are_told_of(tmp_path):
    codes = drawn(FEW, 50)
    data = packed(codes, FEW) + packed(drawn(FEW, 70, seed=1), FEW)
    got, lost, file = whole(written(tmp_path, data))
    np.testing.assert_array_equal(got, codes)
    assert not lost.any()
    assert "10 packets after its end were left out; decode joined files one by one" in file.notes[0]


def test_the_index_leads_to_any_packet(tmp_path):
    header = replace(HEADER, frames=1)
    codes = drawn(header, 400)
    data = packed(codes, header)
    for changed in (data, data[:100] + b"inserted" + data[100:], data[: data.rindex(LAST)]):
        with AmkFile(written(tmp_path, changed)) as file:
            for first in (0, 1, 15, 16, 17, 250, 399, 400):
                numbers = [packet.number for packet in file.packets(first)]
                assert numbers[:1] == [first][: 400 - first]
                assert len(numbers) >= 400 - first - 1


def test_an_end_is_as_long_as_it_says():
    data = packed(drawn())
    assert data[-8:-4] == WORD.pack(len(data) - data.rindex(LAST))
    assert END.unpack_from(data, data.rindex(LAST))[1] == 48000
