"""audiomask.runtime.engine: sessions that share a call hear nothing of each other."""

import threading
from collections import Counter

import numpy as np
import pytest
from options import keywords

from audiomask.runtime import engine
from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.player import feed_all
from audiomask.runtime.session import Session


@pytest.fixture(scope="module")
def model(toy16):
    return Artifact.load(toy16)


@pytest.fixture
def calls(monkeypatch):
    """The number of steps in each call of a graph."""
    seen, call = [], engine._call
    monkeypatch.setattr(engine, "_call", lambda steps: (seen.append(len(steps)), call(steps))[1])
    return seen


def alone(make, x, sizes, at=None, change=None):
    s, parts, begin = make(), [], 0
    for n, size in enumerate(sizes):
        if n == at:
            s.set(**keywords(change))
        parts.append(s.feed(x[:, begin : begin + size]))
        begin += size
    return np.concatenate([*parts, np.atleast_2d(s.flush())], axis=1)


KINDS = [
    {},
    {"channels": 2, "strength": [0.3, 1.0]},
    {"sample_rate": 48000, "dry": 0.2},
    {"sample_rate": 44100, "channels": 3, "strength": 0.5},
    {"trim": False, "block": 100},
]


@pytest.mark.parametrize("name", ["toy", "sieve_16k"])
def test_stacked_equals_alone(name, model, calls):
    """Twelve sessions of every kind with blocks of random lengths, which come and go and turn a control."""
    artifact, rng = model if name == "toy" else resolve(name)[0], np.random.default_rng(3)
    jobs = []
    for n in range(12):
        kind = KINDS[n % len(KINDS)]
        sizes = rng.choice([0, 1, 100, 256, 700, 1024, 5000], 12).tolist()
        x = 0.1 * rng.standard_normal((kind.get("channels", 1), sum(sizes))).astype(np.float32)
        begin, at, change = int(rng.integers(0, 6)), int(rng.integers(1, 12)), {"strength": 0.1 * (n % 5)}
        make = lambda kind=kind: Session(artifact, **keywords(kind))  # noqa: E731
        jobs.append((make, x, sizes, begin, at, change, alone(make, x, sizes, at, change)))
    calls.clear()
    sessions, parts, places = [job[0]() for job in jobs], [[] for _ in jobs], [0] * len(jobs)
    for tick in range(20):
        pairs, who = [], []
        for n, (_, x, sizes, begin, at, change, _) in enumerate(jobs):
            turn = tick - begin
            if not 0 <= turn <= len(sizes):
                continue
            if turn == at:
                sessions[n].set(**keywords(change))
            block = None
            if turn < len(sizes):
                block = x[:, places[n] : places[n] + sizes[turn]]
                places[n] += sizes[turn]
            pairs.append((sessions[n], block))
            who.append(n)
        for n, y in zip(who, feed_all(pairs), strict=True):
            parts[n].append(np.atleast_2d(y))
    for n, job in enumerate(jobs):
        got, want = np.concatenate(parts[n], axis=1), job[-1]
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max(), n
    assert max(calls) > 4


def test_one_call_for_all(model, calls, noise):
    sessions = [Session(model) for _ in range(20)]
    for tick in range(5):
        feed_all([(s, noise(1, 256, tick)[0]) for s in sessions])
    assert calls == [20] * 5


def test_calls_are_bounded_in_rows(model, calls, noise, monkeypatch):
    rows, call = [], engine._call
    monkeypatch.setattr(
        engine, "_call", lambda steps: (rows.append(sum(s.engine.batch for s in steps)), call(steps))[1]
    )
    feed_all([(Session(model, channels=c), noise(c, 512)) for c in (3, 2, 12, 30, 1, 1)])
    assert calls == [2, 1, 1, 2]  # of two hops: at most 16 rows, except that a session stays whole
    assert rows == [5, 12, 30, 2]


def test_other_graphs_run_beside(toy, calls, noise):
    small, large = resolve(toy)
    kinds = [(small, 1), (large, 1), (small, 2), (small, 1), (large, 1)]
    x = noise(1, 768)[0]
    results = feed_all([(Session(a, threads=t), x) for a, t in kinds])
    for (artifact, _), y in zip(kinds, results, strict=True):
        np.testing.assert_allclose(y, Session(artifact).feed(x), atol=1e-6)
    assert Counter(calls[:3]) == {2: 2, 1: 1}  # two hops of the small one and one of the large one


def test_errors_stay_with_their_session(model, noise):
    a, b, c = (Session(model) for _ in range(3))
    x = noise(1, 600)[0]
    first, wrong, last, again = feed_all([(a, x), (b, noise(2, 600)), (c, x), (a, x)])
    assert isinstance(wrong, ValueError)
    assert "does not fit [1, T]" in str(wrong)
    assert isinstance(again, RuntimeError)
    assert "is being fed already" in str(again)
    assert np.array_equal(first, last)
    np.testing.assert_array_equal(first, Session(model).feed(x))
    assert feed_all([]) == []
    np.testing.assert_allclose(feed_all([(a, x)])[0], feed_all([(c, x)])[0], atol=1e-7)


def test_a_fault_stays_with_its_session(model, noise):
    a, b = Session(model, channels=2), Session(model)
    blocks = [noise(3, 256, n) for n in range(6)]
    sick, well = [], []
    for n, block in enumerate(blocks):
        if n == 3:
            a.engine.state[0][1] = np.inf
        y, z = feed_all([(a, block[:2]), (b, block[2])])
        sick.append(y)
        well.append(z)
    assert (a.faults, b.faults) == (1, 0)
    sick, well = np.concatenate(sick, axis=1), np.concatenate(well)
    healthy = np.concatenate([*map(Session(model, channels=2).feed, [b[:2] for b in blocks])], axis=1)
    np.testing.assert_allclose(sick[0], healthy[0], atol=1e-6)
    np.testing.assert_allclose(
        well, np.concatenate([*map(Session(model).feed, [b[2] for b in blocks])]), atol=1e-6
    )
    assert not sick[1, 512:768].any()
    assert sick[1, 1024:].any()


def test_a_graph_that_fails_for_one(tmp_path, toys, noise):
    """A gather out of range where ``pick`` is 1: only the session that asked for it gets the error."""
    import onnx
    from onnx import helper

    port = {"name": "pick", "kind": "constant", "type": "float", "default": 0.0}
    meta = toys.document()
    graph = onnx.load(toys.build(tmp_path / "a.onnx", inputs=[*meta["inputs"], port]))
    for node in graph.graph.node:
        if node.output[0] == "enhanced":
            node.output[0] = "good"
    graph.graph.input.append(helper.make_tensor_value_info("pick", onnx.TensorProto.FLOAT, ["B"]))
    graph.graph.node.extend([
        helper.make_node("Cast", ["pick"], ["index"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["rest_", "index"], ["zeros"]),
        helper.make_node("Unsqueeze", ["zeros", "both"], ["zeros3"]),
        helper.make_node("Add", ["good", "zeros3"], ["enhanced"]),
    ])  # fmt: skip
    graph.graph.initializer.append(helper.make_tensor("rest_", onnx.TensorProto.FLOAT, [1], [0.0]))
    onnx.save(graph, tmp_path / "a.onnx")
    model = Artifact.load(tmp_path / "a.onnx")
    a, b, c = Session(model), Session(model, controls={"pick": 1}), Session(model)
    x = noise(1, 1000)[0]
    first, bad, last = feed_all([(a, x), (b, x), (c, x)])
    assert isinstance(bad, ArtifactError)
    assert "failed while running" in str(bad)
    np.testing.assert_array_equal(first, last)
    np.testing.assert_allclose(first, toys.lowpass(x)[: len(first)], atol=1e-6)
    b.reset()
    b.set({"pick": 0})
    np.testing.assert_allclose(b.feed(x), first, atol=1e-6)


def test_groups_in_several_threads(model, noise):
    groups = [[Session(model) for _ in range(5)] for _ in range(4)]
    x, wrong, right = noise(1, 60 * 100)[0], [], []
    want = Session(model)
    want = [want.feed(x[n : n + 100]) for n in range(0, len(x), 100)]

    def work(group):
        for n, y in enumerate(want):
            for got in feed_all([(s, x[n * 100 : n * 100 + 100]) for s in group]):
                same = got.shape == y.shape and np.allclose(got, y, atol=1e-6)
                (right if same else wrong).append(n)

    threads = [threading.Thread(target=work, args=(group,)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(right) == 4 * 5 * 60  # nor did a thread die of an exception


def test_results_do_not_alias(model, noise):
    sessions = [Session(model) for _ in range(3)]
    x = [noise(1, 256, n)[0] for n in range(3)]
    feed_all([(s, x[0]) for s in sessions])
    first = feed_all([(s, b) for s, b in zip(sessions, x, strict=True)])
    kept = [y.copy() for y in first]
    feed_all([(s, x[1]) for s in sessions])
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))
    assert all(y.base is None or y.base.size == 256 for y in first)  # nor does one keep the others alive
