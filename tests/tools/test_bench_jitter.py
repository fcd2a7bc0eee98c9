"""tools/bench/jitter.py: traces, players and figures, against what can be counted by hand."""

import importlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench():
    """The tool's modules, by name."""
    folder = str(Path(__file__).parents[2] / "tools/bench")
    sys.path.insert(0, folder)
    yield {name: importlib.import_module(name) for name in ("packet_traces", "jitter_players", "jitter")}
    sys.path.remove(folder)


def trace(bench, delay, *, period=0.02, **more):
    sent = np.arange(len(delay)) * period
    return bench["packet_traces"].model("", sent, np.asarray(delay, float), period, **more)


def test_a_quiet_network_is_played_by_all_without_a_fault(bench):
    """Delay: 40 ms, and the budget; NetEq's target is one bucket of its histogram."""
    quiet = trace(bench, np.zeros(3000))
    for name, least, most in (("ours", 0.099, 0.101), ("plain", 0.099, 0.101), ("neteq", 0.04, 0.09)):
        played = getattr(bench["jitter_players"], name)(quiet)
        delay = (played.at - quiet.sent)[500:]
        assert least < delay.min() <= delay.max() < most, name
        assert (played.late, round(played.concealed, 2)) == (0, 0)
        assert played.stretched < 0.2  # of a minute: NetEq's begins with 80 ms


def test_losses_are_concealed_for_as_long_as_they_are(bench):
    delay = np.zeros(3000)
    delay[100::50] = np.nan
    for name in ("ours", "plain", "neteq"):
        played = getattr(bench["jitter_players"], name)(trace(bench, delay))
        assert np.array_equal(np.isnan(played.at), np.isnan(delay)), name
        least = 0.5 if name == "neteq" else 0.99  # which goes on early where it has more than it wants
        assert least * 58 * 0.02 < played.concealed < 58 * 0.02 + 0.03


def test_neteq_plays_late_packets_later_and_then_faster(bench):
    """200 ms held up once: all is heard, later by what was made up; the delay comes down by 8 ms at once."""
    delay = np.zeros(3000)
    delay[1000:1010] = 0.199 - np.arange(10) * 0.02
    held = trace(bench, delay)
    played = bench["jitter_players"].neteq(held)
    assert not np.isnan(played.at).any()
    late = played.at - held.sent
    assert 0.14 < late[1010] - late[990] < 0.2
    assert abs(played.concealed - 0.17) < 0.03
    assert abs(late[2000] - late[990]) < 0.03
    assert 0.12 < played.stretched < 0.3
    assert bench["jitter_players"].ours(held).late == 7  # by 199, 179, ... 79 ms


def test_neteq_aims_at_the_delay_that_one_in_twenty_half_seconds_exceeds(bench):
    delays = bench["jitter_players"].Delays()
    assert delays.target == 0.08
    for n in range(5000):
        delays.arrived(n * 0.02, n * 0.02 + (0.05 if n % 20 == 7 else 0))
    assert delays.target == pytest.approx(0.06)
    for n in range(5000, 5200):
        delays.arrived(n * 0.02, n * 0.02 + 0.25 * (n % 20 == 7))
    assert delays.target == pytest.approx(0.26)


def test_the_time_to_be_back_is_counted_from_the_end_of_the_spike(bench):
    spiky = trace(bench, np.zeros(1000), spikes=((5.0, 5.2), (12.0, 12.1)))
    played = bench["jitter_players"].Played(spiky.sent + 0.1)
    assert bench["jitter"].returned(spiky, played) == 0
    played.at[(spiky.sent > 5) & (spiky.sent < 6.5)] += 0.1
    played.at[(spiky.sent > 12) & (spiky.sent < 12.3)] += 0.019
    assert bench["jitter"].returned(spiky, played) == pytest.approx(6.48 + 0.2 - 5.2)


def test_bars(bench):
    """Issue by issue: two per cent for ten minutes, spikes, new beginnings, as the table shows them."""
    models, facts, ours = bench["packet_traces"].MODELS, bench["jitter"].facts, bench["jitter_players"].ours
    for name in ("slow", "fast", "slow-jitter", "fast-jitter", "swing", "sleep-20.2"):
        row = facts(one := models[name](), ours(one))
        assert (row["late %"], row["concealed %"]) == (0, 0), name
        assert row["stretched %"] < 4
    for name in ("spikes", "spikes-queue", "spikes-slow", "spikes-fast"):
        row = facts(one := models[name](), ours(one))
        assert row["back s"] < 2
    for name in ("restarts", "restarts-pause"):
        row = facts(one := models[name](), ours(one))
        assert row["max"] < 40 + 200
        assert row["late %"] == 0


def test_all_models_are_seeded_and_ordered(bench):
    for name, make in bench["packet_traces"].MODELS.items():
        one, two = make(), make()
        assert np.array_equal(one.arrived, two.arrived, equal_nan=True), name
        assert (np.diff(one.sent) > 0).all()
        assert np.nanmin(one.arrived - one.sent) >= 0.04 - 1e-9


def test_a_table_and_the_command(bench, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text(
        "".join(f"{n},{n / 50},{n / 50 + 0.03}\n" for n in range(200)) + "200,4,\n"
    )
    assert bench["jitter"].main([str(tmp_path / "mine.csv"), "--json", "--plain", "40"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["buffer"] for row in rows] == ["ours, 60 ms", "plain, 40 ms", "NetEq, simulated"]
    assert [row["p50"] for row in rows[:2]] == [90, 70]
    assert rows[0]["lost %"] == pytest.approx(100 / 201, abs=0.01)
    assert bench["jitter"].main([str(tmp_path / "none.csv")]) == 1
    assert "none.csv" in capsys.readouterr().err


def test_counters_wrap_and_the_clock_lies_below_all_arrivals(bench):
    traces = bench["packet_traces"]
    assert traces.unwrapped(np.array([65534, 65535, 1, 0, 2]), 16).tolist() == [
        65534,
        65535,
        65537,
        65536,
        65538,
    ]
    x = np.linspace(0, 60, 3001)
    late = np.random.default_rng(0).exponential(0.02, len(x))
    slope, offset = traces.below(x, 1.0002 * x + 5 + late)
    assert (slope, offset) == (pytest.approx(1.0002, abs=1e-5), pytest.approx(5, abs=1e-3))
    with pytest.raises(ValueError, match="one time stamp"):
        traces.below(np.zeros(3), np.arange(3.0))


def capture_file(path, packets):
    """A pcap file of Ethernet frames: RTP of `(time, sequence, time stamp)` to port 5004, from port 4000."""
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for at, sequence, stamp in packets:
        rtp = struct.pack(">BBHII", 0x80, 0, sequence % 2**16, stamp % 2**32, 7) + bytes(160)
        udp = struct.pack(">HHHH", 4000, 5004, 8 + len(rtp), 0) + rtp
        ip = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\0\2"
        )
        frame = bytes(12) + b"\x08\0" + ip + udp
        out += struct.pack("<IIII", int(at), round(at % 1 * 1e6), len(frame), len(frame)) + frame
    path.write_bytes(out)


def test_a_capture(bench, tmp_path, capsys):
    """Wraps of both counters, one packet lost, one twice, some overtaken, and a clock that is .1 % slow."""
    pytest.importorskip("dpkt")
    late = np.where(np.arange(500) % 7 == 3, 0.03, 0.0)
    packets = [(1e9 + n * 0.02 * 1.001 + late[n], 65500 + n, 2**32 - 4000 + 160 * n) for n in range(500)]
    packets = sorted(packets[:100] + packets[101:] + [(packets[200][0] + 0.1, *packets[200][1:])])
    capture_file(tmp_path / "call.pcap", packets)
    capture = bench["packet_traces"].Capture("mine", "", "", 4000, 0, 8000, 160)
    one = bench["packet_traces"].read_capture(tmp_path / "call.pcap", capture)
    assert np.flatnonzero(np.isnan(one.arrived)).tolist() == [100]
    assert np.nan_to_num(one.arrived - one.sent - late).round(4).tolist() == [0] * 500
    assert one.sent[-1] == pytest.approx(499 * 0.02 * 1.001, abs=1e-4)
    assert bench["jitter"].main([str(tmp_path / "call.pcap"), "--port", "4000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["lost %"] == 0.2
    with pytest.raises(ValueError, match="no RTP stream of type 0 from port 4001"):
        bench["packet_traces"].read_capture(
            tmp_path / "call.pcap", bench["packet_traces"].Capture("", "", "", 4001, 0, 8000, 160)
        )


@pytest.mark.peer
def test_captures_of_real_calls(bench):
    """Fetched as the tool does it: lengths, losses and delays of the streams."""
    pytest.importorskip("dpkt")
    try:
        call, meeting = bench["packet_traces"].captured(["phone-2", "meeting"])
    except bench["packet_traces"].MissingPeer as error:
        pytest.skip(str(error))
    assert (len(call.place), int(np.isnan(call.arrived).sum()), call.period) == (745, 3, 0.06)
    assert 3 < np.nanmax(call.arrived - call.sent) < 3.6
    assert len(meeting.place) == 1981
    assert np.nanpercentile(meeting.arrived - meeting.sent, 95) < 0.03
