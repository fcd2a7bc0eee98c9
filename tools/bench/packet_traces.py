"""Traces of packets: what was sent when and arrived when, from captures of real calls and from models.

A capture is a file that Wireshark or tcpdump wrote (pcap or pcapng; dpkt reads it) or a table of lines
`number,sent,arrived` in seconds, the third empty for a lost packet. When a captured packet was sent is not
known: it is taken from the RTP time stamp, by a clock that runs straight below all arrivals, as Moon, Skelly
and Towsley (Infocom 1999) estimate skew. So delays are those beyond the fastest packets'.
"""

from __future__ import annotations

import csv
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.masks.packets import Gilbert

Array = np.ndarray
BASE_S = 0.04  # what the fastest packet takes, in the models
CLOCK = 78e-6  # Mills, Computer Network Time Synchronization: the median error of 20,000 hosts' clocks


@dataclass(frozen=True)
class Trace:
    """Packets in the order of their sending; times in seconds by the receiver's clock.

    `number` as the packet bears it; `place` counts what was sent, so that a number may come again. `arrived`
    is NaN for what the network lost. `spikes`: from when to when the network held packets up.
    """

    name: str
    period: float
    number: Array
    place: Array
    sent: Array
    arrived: Array
    spikes: tuple[tuple[float, float], ...] = ()

    def arrivals(self) -> Array:
        """The rows that arrived, in their order."""
        rows = np.flatnonzero(~np.isnan(self.arrived))
        return rows[np.argsort(self.arrived[rows], kind="stable")]


def model(name: str, sent: Array, delay: Array, period: float = 0.02, **more: Any) -> Trace:
    """The trace of packets `sent` [s], each `delay` [s] on its way (NaN: lost), numbered from 0."""
    place = np.arange(len(sent))
    return Trace(name, period, more.pop("number", place), place, sent, sent + BASE_S + delay, **more)


def clock(seconds: float, drift: float = CLOCK, period: float = 0.02) -> Array:
    """When a sender sends whose period is longer by the share `drift`."""
    return np.arange(round(seconds / period)) * period * (1 + drift)


def drifting(drift: float, jitter_ms: float, seconds: float = 600, period: float = 0.02) -> Trace:
    """A clock that is off, and jitter spread evenly from 0 to `jitter_ms`."""
    sent = clock(seconds, drift, period)
    delay = np.random.default_rng(1).uniform(0, jitter_ms / 1000, len(sent))
    return model(f"clock {drift:+.2%}, {jitter_ms:g} ms of jitter", sent, delay, period)


def swinging(seconds: float = 600) -> Trace:
    """A clock that is 2 % slow, then 2 % fast, changing every minute."""
    drift = np.where(np.arange(round(seconds / 0.02)) // 3000 % 2, -0.02, 0.02)
    sent = np.cumsum(0.02 * (1 + drift))
    delay = np.random.default_rng(2).uniform(0, 0.02, len(sent))
    return model("clock +2 and -2 % by turns, 20 ms of jitter", sent, delay)


def sleeping(excess_ms: float, seconds: float = 600) -> Trace:
    """A sender that sleeps 20 ms after each packet, and each time wakes late: by `excess_ms` in the mean."""
    rng = np.random.default_rng(3)
    sent = np.cumsum(0.02 + rng.exponential(excess_ms / 1000, round(seconds / 0.02)))
    return model(f"sleeps {20 + excess_ms:g} ms between packets", sent, rng.uniform(0, 0.005, len(sent)))


def queue(sent: Array, stalls: list[tuple[float, float]], drain: float) -> Array:
    """Delays in a queue that lets nothing out in the `stalls` (begin, end), then a packet each `drain` s."""
    delay, free = np.zeros(len(sent)), 0.0
    for n, at in enumerate(sent):
        out = max(at, free)
        for begin, end in stalls:
            if begin <= out < end:
                out = end
        delay[n], free = out - at, out + drain
    return delay


def spiky(drain_ms: float, drift: float = CLOCK, seconds: float = 120, jitter_ms: float = 10) -> Trace:
    """A stall of 100 to 400 ms every 10 s, then the held packets in a burst.

    The shape is that of the spikes of Ramjee, Kurose, Towsley and Schulzrinne (Infocom 1994): a sudden rise,
    then a series of packets almost at once, or within a few round trips where the queue drains slowly.
    """
    rng = np.random.default_rng(4)
    sent = clock(seconds, drift)
    stalls = [(t, t + rng.uniform(0.1, 0.4)) for t in np.arange(10, seconds - 9, 10.0)]
    delay = queue(sent, stalls, drain_ms / 1000)
    spikes = []
    for begin, _ in stalls:
        held = (sent > begin - 1) & (delay > 0.02) & (sent < begin + 9)
        spikes.append((begin + BASE_S, float((sent + delay)[held].max()) + BASE_S))
    delay = np.maximum.accumulate(sent + delay + rng.uniform(0, jitter_ms / 1000, len(sent))) - sent
    text = f"stalls of 100 to 400 ms, drained by {drain_ms:g} ms a packet"
    return model(text + f", clock {drift:+.0%}" * (drift != CLOCK), sent, delay, spikes=tuple(spikes))


def lossy(rate: float, burst: float, seconds: float = 120) -> Trace:
    """Gilbert losses, 10 ms of jitter; the rates and bursts are those of docs/conceal.md."""
    sent = clock(seconds)
    delay = np.random.default_rng(5).uniform(0, 0.01, len(sent))
    delay[Gilbert.of(rate, burst).sample(np.array([6]), len(sent))[0]] = np.nan
    return model(f"{rate:.0%} lost in bursts of {burst:g}", sent, delay)


def wireless(median_ms: float, tenth_ms: float, seconds: float = 120) -> Trace:
    """A hop with a heavy tail: the logarithm of the delay wanders; a tenth is above `tenth_ms`. In order.

    Pei et al. (Infocom 2016, 47 access points of a campus): half of the packets take more than 20 ms for the
    wireless hop, a tenth more than 100 ms. That the delay keeps for 200 ms is ours.
    """
    rng = np.random.default_rng(7)
    sent, keep, wander = clock(seconds), np.exp(-0.02 / 0.2), 0.0
    delay = np.zeros(len(sent))
    for n, step in enumerate(rng.standard_normal(len(sent))):
        wander = keep * wander + np.sqrt(1 - keep**2) * step
        delay[n] = median_ms / 1000 * np.exp(np.log(tenth_ms / median_ms) / 1.2816 * wander)
    delay = np.maximum.accumulate(sent + delay) - sent
    return model(f"wireless: half above {median_ms:g} ms, a tenth above {tenth_ms:g} ms", sent, delay)


def rerouted(step_ms: float = 100, seconds: float = 90) -> Trace:
    """A way that is longer by `step_ms` for the middle third."""
    sent = clock(seconds)
    delay = np.random.default_rng(8).uniform(0, 0.01, len(sent))
    delay[len(sent) // 3 : 2 * len(sent) // 3] += step_ms / 1000
    return model(f"a way longer by {step_ms:g} ms for a third", sent, delay)


def restarting(pause_s: float, first: tuple[int, ...] = (0, 0, 0, 500, 70000), each_s: float = 6) -> Trace:
    """A sender that begins anew after `pause_s` with the next of the numbers `first`."""
    count = round(each_s / 0.02)
    sent = np.concatenate([n * (each_s + pause_s) + clock(each_s) for n in range(len(first))])
    number = np.concatenate([np.arange(count) + n for n in first])
    delay = np.random.default_rng(9).uniform(0, 0.01, len(sent))
    text = f"{len(first) - 1} new beginnings" + f" after {pause_s:g} s" * (pause_s > 0)
    return model(text, sent, delay, number=number)


MODELS: dict[str, Callable[[], Trace]] = {
    "clock": lambda: drifting(CLOCK, 10),
    "slow": lambda: drifting(0.02, 0),
    "fast": lambda: drifting(-0.02, 0),
    "slow-jitter": lambda: drifting(0.02, 20),
    "fast-jitter": lambda: drifting(-0.02, 20),
    "swing": swinging,
    "sleep-20.2": lambda: sleeping(0.2),
    "sleep-21": lambda: sleeping(1),
    "spikes": lambda: spiky(0.2),
    "spikes-queue": lambda: spiky(10),
    "spikes-slow": lambda: spiky(0.2, 0.02),
    "spikes-fast": lambda: spiky(0.2, -0.02),
    "lossy": lambda: lossy(0.07, 2.5),
    "wireless": lambda: wireless(5, 40),
    "wireless-worse": lambda: wireless(20, 100),
    "route": rerouted,
    "restarts": lambda: restarting(0),
    "restarts-pause": lambda: restarting(0.5),
}


class MissingPeer(RuntimeError):
    """What a capture needs is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Capture:
    """One RTP stream of a file of a Debian source package.

    `offset`: bytes before the RTP header in a datagram; `tick`: its time stamp's units in a second; `units`
    of a packet. With `by_time` packets are numbered by their time stamps, as docs/conceal.md does it for a
    sender that is silent in pauses; the pauses count as lost by the network then.
    """

    name: str
    package: str
    file: str
    port: int
    kind: int
    tick: int
    units: int
    offset: int = 0
    by_time: bool = False


KAKAOTALK = "ndpi", "KakaoTalk_talk.pcap"  # package, file
CAPTURES = {
    "phone-1": Capture("a call over a phone's network (1)", *KAKAOTALK, 23044, 108, 16000, 960),
    "phone-2": Capture("a call over a phone's network (2)", *KAKAOTALK, 23046, 108, 16000, 960),
    "meeting": Capture("a meeting, silent in pauses", "ndpi", "zoom2.pcap", 8801, 112, 32000, 640, 27, True),
}


def fetch(package: str, folder: Path) -> None:
    """Unpack the captures of a Debian source package into `folder`; apt's own set-up says from where."""

    def run(*words: str) -> str:
        try:
            return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout
        except FileNotFoundError:
            raise MissingPeer(f"{words[0]} is not here: captures come by Debian's package client") from None
        except subprocess.CalledProcessError as error:
            raise MissingPeer(f"{' '.join(words)}: {error.stderr.strip().splitlines()[-1]}") from None

    form = "deb-src $(REPO_URI) $(SUITE) $(COMPONENT)"
    where = run("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    (folder / "sources.list").write_text("\n".join(sorted(set(where.splitlines()))) + "\n")
    (folder / "lists/partial").mkdir(parents=True)
    options = [f"Dir::Etc::sourcelist={folder}/sources.list", "Dir::Etc::sourceparts=-"]
    options += [f"Dir::State::lists={folder}/lists", "APT::Sandbox::User="]
    apt = ["apt-get", "-q", *(word for option in options for word in ("-o", option))]
    run(*apt, "update")
    run(*apt, "source", "--download-only", "--tar-only", package)
    for archive in folder.glob(f"{package}_*.orig.tar.*"):
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).name in {c.file for c in CAPTURES.values()}:
                    member.name = Path(member.name).name
                    tar.extract(member, folder, filter="data")


def captured(names: list[str]) -> Iterator[Trace]:
    """Fetch the packages of these captures into a folder that is removed afterwards; yield their traces."""
    for package in sorted({CAPTURES[name].package for name in names}):
        with tempfile.TemporaryDirectory() as folder:
            fetch(package, Path(folder))
            for name in names:
                if (capture := CAPTURES[name]).package == package:
                    yield read_capture(Path(folder) / capture.file, capture)


def datagrams(path: Path) -> Iterator[tuple[float, tuple[int, int], bytes]]:
    """Time, ports (from, to) and payload of each UDP datagram of a capture."""
    try:
        import dpkt
    except ImportError:
        raise MissingPeer("dpkt is not installed; pip install dpkt") from None
    with path.open("rb") as file:
        reader = dpkt.pcap.UniversalReader(file)
        link = {1: dpkt.ethernet.Ethernet, 113: dpkt.sll.SLL, 0: dpkt.loopback.Loopback}
        for at, frame in reader:
            try:
                layer = link.get(reader.datalink(), dpkt.ip.IP)(frame)
            except dpkt.UnpackError:
                continue  # cut short, or of another kind
            while not isinstance(layer, bytes | dpkt.udp.UDP):
                layer = layer.data
            if not isinstance(layer, bytes):
                yield float(at), (layer.sport, layer.dport), bytes(layer.data)


def read_capture(path: Path, capture: Capture) -> Trace:
    """The trace of one RTP stream; ValueError where there is none."""
    rows = []
    for at, (port, _), data in datagrams(path):
        data = data[capture.offset :]
        if port == capture.port and len(data) >= 12 and data[0] >> 6 == 2 and data[1] & 127 == capture.kind:
            number, stamp = int.from_bytes(data[2:4]), int.from_bytes(data[4:8])
            rows.append((at, number, stamp))
    if len(rows) < 2:
        raise ValueError(f"{path}: no RTP stream of type {capture.kind} from port {capture.port}")
    at, number, stamp = np.array(rows).T
    number, stamp = unwrapped(number, 16), unwrapped(stamp, 32)
    number -= number.min()
    media = (stamp - stamp.min()) / capture.tick
    if capture.by_time:
        number = np.rint((stamp - stamp.min()) / capture.units).astype(int)
    slope, offset = below(media, at)
    place = np.arange(number.max() + 1)
    known, row = np.unique(number, return_index=True)
    sent = np.interp(place, known, (slope * media + offset)[row])
    arrived = np.full(len(place), np.nan)
    order = np.argsort(-at)  # of a packet that came twice the first counts
    arrived[number[order]] = at[order]
    return Trace(capture.name, capture.units / capture.tick, place, place, sent - sent[0], arrived - sent[0])


def read_table(path: Path, period: float) -> Trace:
    """The trace of a table of lines `number,sent,arrived`."""
    with path.open(newline="") as file:
        rows = [[float(cell or "nan") for cell in row] for row in csv.reader(file)]
    number, sent, arrived = np.array(rows).T
    return Trace(path.stem, period, number.astype(int), np.arange(len(rows)), sent, arrived)


def unwrapped(x: Array, bits: int) -> Array:
    """Counters of so many bits, with their wraps counted."""
    half = 2 ** (bits - 1)
    steps = (np.diff(x.astype(int)) + half) % (2 * half) - half
    return int(x[0]) + np.concatenate([[0], np.cumsum(steps)])


def below(x: Array, y: Array) -> tuple[float, float]:
    """Slope and offset of the line under all points that lies least below them.

    It is the edge of their lower convex hull above the mean of `x`.
    """
    if np.ptp(x) == 0:
        raise ValueError("all packets bear one time stamp")
    hull: list[tuple[float, float]] = []
    for point in sorted(zip(x.tolist(), y.tolist(), strict=True)):
        while len(hull) > 1:
            (a, b), (c, d) = hull[-2:]
            if (c - a) * (point[1] - b) > (d - b) * (point[0] - a):
                break
            hull.pop()
        hull.append(point)
    (a, b), (c, d) = next(edge for edge in pairwise(hull) if edge[1][0] >= np.mean(x))
    slope = (d - b) / (c - a)
    return slope, b - slope * a
