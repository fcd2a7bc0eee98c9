"""audiomask.runtime.net.batching: whose turn it is, decided by clocks that the tests set."""

import asyncio

import pytest

from audiomask.runtime.artifact import Artifact
from audiomask.runtime.net.batching import EXTRA_S, GATHER_S, LIVE_S, TURN_HOPS, Stream, Worker
from audiomask.runtime.net.counters import Counters
from audiomask.runtime.pcm import Pcm
from audiomask.runtime.session import Session

HOP = 256
SECOND = 4 * 16000


@pytest.fixture
def desk(toy16):
    """``desk(test)``: runs ``test(worker, stream)`` in an event loop; ``stream()`` makes one. The computing
    thread has ended, so that only `_choose` is at work."""
    artifact = Artifact.load(toy16)

    def run(test, max_rate=1000.0, burst_s=1000.0):
        async def inside():
            worker = Worker(Counters())
            worker.stop()
            test(
                worker,
                lambda: Stream(
                    Session(artifact), Pcm("f32le", 1), worker, lambda *got: None, max_rate, burst_s
                ),
            )

        asyncio.run(inside())

    return run


def hops(turn):
    return [(stream, len(data) / 4 / HOP) for stream, data, _ in turn]


def test_a_file_gets_what_live_streams_leave(desk):
    def test(worker, stream):
        live, file = stream(), stream()
        worker._cost = EXTRA_S / 3  # three hops fit beside the live ones
        worker.put(file, bytes(100 * SECOND), 10.0)
        while file.due <= 10.0 + LIVE_S:  # its first quarter of a second is as good as live
            assert hops(worker._choose(10.0)) == [(file, TURN_HOPS)]
        for step in range(20):
            now = 10.0 + 0.016 * step
            worker.put(live, bytes(4 * HOP), now)
            assert hops(worker._choose(now))[0] == (live, 1)
        now += 0.001
        worker.put(live, bytes(4 * HOP), now)
        file.due = now + 1
        assert hops(worker._choose(now)) == [(live, 1), (file, 3)]

    desk(test)


def test_the_least_advanced_of_the_files_goes_first_and_one_hop_always_goes(desk):
    def test(worker, stream):
        files = [stream() for _ in range(3)]
        for file, due in zip(files, (30.0, 20.0, 25.0), strict=True):
            worker.put(file, bytes(SECOND), 10.0)
            file.due = due
        worker._cost = EXTRA_S / 10
        assert hops(worker._choose(10.0)) == [(files[1], TURN_HOPS), (files[2], 2)]
        worker._cost = 1.0  # a model that is slower than everything
        assert hops(worker._choose(10.0)) == [(files[1], 1)]

    desk(test)


def test_a_late_stream_is_not_owed_the_past(desk):
    def test(worker, stream):
        one = stream()
        worker.put(one, bytes(4 * HOP), 10.0)
        worker._choose(10.0)
        worker.put(one, bytes(4 * HOP), 100.0)
        worker._choose(100.0)
        assert one.due == pytest.approx(100.016)

    desk(test)


def test_the_input_rate_is_limited_after_a_burst(desk):
    """Twice real time, after 4 s at once: what has been taken over the clock."""

    def test(worker, stream):
        one = stream()
        worker.put(one, bytes(100 * SECOND), 0.0)

        def taken(now):
            while turn := worker._choose(now):
                assert turn[0][0] is one
            return one.samples_in / 16000

        block = TURN_HOPS * HOP / 16000
        for now in (0.0, 0.5, 1.0, 2.9, 4.5, 6.0):
            assert 0 <= taken(now) - (4 + 2 * now) <= block
        assert worker._timer
        assert worker.counters.values["throttled_total"][""] >= 1
        one.inbox.clear()
        worker.put(one, bytes(100 * SECOND), 100.0)  # a rest gives a burst back, no more
        before = one.samples_in / 16000
        assert 0 <= taken(100.0) - before - 4 <= block

    desk(test, max_rate=2.0, burst_s=4.0)


def test_the_end_of_a_signal_counts_as_what_it_computes(desk):
    """Else a client that ends its signal after every sample would get any amount of it."""

    def test(worker, stream):
        one, ends = stream(), 0
        while True:
            worker.put(one, bytes(4), 0.0)
            if not worker._choose(0.0):
                break
            one.ending = asyncio.get_running_loop().create_future()
            if not (turn := worker._choose(0.0)):
                break
            assert turn == [(one, None, 0.0)]
            one.ending, ends = None, ends + 1
        latency = one.session.latency / 16000
        assert 0 <= ends * latency + one.samples_in / 16000 - 4 <= latency

    desk(test, max_rate=2.0, burst_s=4.0)


def test_a_stream_that_was_forgotten_is_not_computed(desk):
    def test(worker, stream):
        one = stream()
        worker.put(one, bytes(SECOND), 0.0)
        worker.forget(one)
        worker.wake(one)  # by the last of its output, which had no room before
        assert worker._choose(0.0) == []

    desk(test)


def test_nobody_waits_for_the_end_of_a_stream_that_left_during_a_turn(toy16):
    """A client that sends, asks for the end, and vanishes while its last sound is computed."""

    async def inside():
        worker = Worker(Counters())
        worker.stop()
        one = Stream(Session(Artifact.load(toy16)), Pcm("f32le", 1), worker, lambda *got: None, 1.0, 1.0)
        worker.put(one, bytes(4 * HOP), 0.0)
        turn = worker._choose(0.0)
        waiting = asyncio.create_task(worker.flush(one))
        await asyncio.sleep(0)
        worker.forget(one)
        assert not waiting.done()
        worker._finish(turn, [b""], 0.001)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(inside())


def test_no_room_no_turn(desk):
    def test(worker, stream):
        one = stream()
        one.choked = True
        worker.put(one, bytes(SECOND), 0.0)
        assert worker._choose(0.0) == []
        one.choked = False
        assert worker._choose(0.0) == [], "it waits until it is woken"
        worker.wake(one)
        assert hops(worker._choose(0.0)) == [(one, TURN_HOPS)]

    desk(test)


def test_half_a_sample_waits(desk):
    def test(worker, stream):
        one = stream()
        worker.put(one, bytes(7), 1.0)
        ((_, data, since),) = worker._choose(1.0)
        assert (len(data), since) == (4, 1.0)
        assert worker._choose(1.0) == []
        worker.put(one, bytes(1), 2.0)
        assert len(worker._choose(2.0)[0][1]) == 4

    desk(test)


def test_what_arrives_soon_after_a_turn_shares_the_next(toy16):
    artifact = Artifact.load(toy16)

    async def inside():
        worker, loop = Worker(Counters()), asyncio.get_running_loop()
        worker.stop()
        a, b, c = (
            Stream(Session(artifact), Pcm("f32le", 1), worker, lambda *got: None, 1.0, 1.0) for _ in "abc"
        )
        begin = loop.time()
        worker.put(a, bytes(4 * HOP), begin)
        await asyncio.sleep(0)
        assert hops(worker._turns.get_nowait()[0]) == [(a, 1)]
        assert worker._next >= begin + GATHER_S > begin
        worker._busy, worker._next = (
            False,
            loop.time() + 0.2,
        )  # the turn is over; a wait that slow machines keep
        worker.put(b, bytes(4 * HOP), loop.time())
        await asyncio.sleep(0.01)
        worker.put(c, bytes(4 * HOP), loop.time())
        while worker._turns.empty():
            await asyncio.sleep(0.01)
        assert hops(worker._turns.get_nowait()[0]) == [(b, 1), (c, 1)]

    asyncio.run(inside())
